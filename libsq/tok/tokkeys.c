#include <stdlib.h>
#include <string.h>

#include "parts.h"
#include "sq/json.h"

/* The tokenizer of a GGUF file. Its pre-tokenizer is a name; the patterns are those of the models that the names come from. */

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define CASELESS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define MARKS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct pre_kind {
    const char *names; /* between spaces */
    const char *pattern[5];
    bool ignore_merges, add_bos, nfc;
} pre_kinds[] = {
    {" default ", {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}, false, false, false},
    {" gpt-2 phi-2 roberta-bpe jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code gigachat mpt olmo jais ",
     {GPT2}, false, false, false},
    {" llama-bpe llama3 llama-v3 falcon3 ", {CASELESS "\\p{N}{1,3}" MARKS}, true, true, false},
    /* Qwen's own tokenizer brings the text into NFC first. */
    {" qwen2 deepseek-r1-qwen megrez ", {CASELESS "\\p{N}" MARKS}, false, false, true},
    {" smollm starcoder refact command-r codeshell exaone minerva-7b ", {"\\p{N}", GPT2}, false, false, false},
    {" deepseek-coder ", {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+", "\\p{N}"}, false, false, false},
    {" falcon ", {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}, false, false, false},
};

static const struct pre_kind *pre_find(const char *name)
{
    char padded[64];
    const size_t n = strlen(name);
    if (n + 3 > sizeof(padded) || n == 0 || strchr(name, ' '))
        return NULL;
    padded[0] = ' ';
    memcpy(padded + 1, name, n);
    memcpy(padded + 1 + n, " ", 2);
    for (int i = 0; i < SQ_COUNT(pre_kinds); i++)
        if (strstr(pre_kinds[i].names, padded))
            return &pre_kinds[i];
    return NULL;
}

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

static int read_tokens(struct sq_tok *tok, const struct sq_tok_keys *k)
{
    size_t bytes = 0;
    int64_t nadded = 0;
    int rc = 0;

    if (k->ntoken <= 0 || k->ntoken > SQ_VOCAB_MAX)
        return sq_fail(SQ_E_FORMAT, "tokenizer.ggml.tokens has %" PRId64 " tokens", k->ntoken);
    for (int64_t i = 0; i < k->ntoken; i++) {
        if (k->token[i].n > INT32_MAX - bytes)
            return sq_fail(SQ_E_FORMAT, "tokenizer.ggml.tokens is too long");
        bytes += k->token[i].n;
        const size_t bad = sq_utf8_check(k->token[i].p, k->token[i].n);
        if (bad < k->token[i].n)
            return sq_fail(SQ_E_FORMAT, "token %" PRId64 " is not UTF-8", i);
        nadded += k->type && (k->type[i] == TYPE_UNKNOWN || k->type[i] == TYPE_CONTROL || k->type[i] == TYPE_USER);
    }
    SQ_TRY(sq_vocab_init(&tok->vocab, k->ntoken, k->ntoken, bytes));
    SQ_TRY(sq_alloc(&tok->added, nadded));
    for (int64_t i = 0; i < k->ntoken; i++) {
        const int32_t type = k->type ? k->type[i] : TYPE_NORMAL;
        if (k->token[i].n == 0)
            continue; /* a padded vocabulary: nothing spells this id */
        SQ_TRY(sq_vocab_put(&tok->vocab, i, k->token[i].p, k->token[i].n));
        if (type != TYPE_UNKNOWN && type != TYPE_CONTROL && type != TYPE_USER)
            continue;
        tok->vocab.piece[i].added = 1;
        tok->vocab.piece[i].special = type != TYPE_USER;
        tok->added[tok->nadded++] = (struct sq_added){.id = (int32_t)i};
    }
out:
    return rc;
}

static int read_merges(struct sq_tok *tok, const struct sq_tok_keys *k)
{
    int rc = 0;
    if (k->nmerge < 0 || k->nmerge > INT32_MAX)
        return sq_fail(SQ_E_FORMAT, "tokenizer.ggml.merges has %" PRId64 " merges", k->nmerge);
    SQ_TRY(sq_map_init(&tok->merge, k->nmerge));
    for (int64_t i = k->nmerge - 1; i >= 0; i--) { /* the first of two equal merges counts */
        const struct sq_tok_str m = k->merge[i];
        const char *gap = m.n > 1 ? memchr(m.p + 1, ' ', m.n - 1) : NULL;
        if (!gap) {
            rc = sq_fail(SQ_E_FORMAT, "merge %" PRId64 " '%.*s' is not two tokens with a space between them", i,
                         (int)SQ_MIN(m.n, (size_t)64), m.p);
            goto out;
        }
        const size_t left = (size_t)(gap - m.p);
        SQ_TRY(sq_tok_merge(tok, i, (struct sq_tok_str){m.p, left}, (struct sq_tok_str){gap + 1, m.n - left - 1}));
    }
out:
    return rc;
}

static int check_id(const struct sq_tok *tok, int64_t id, const char *what)
{
    if (id < -1 || id >= tok->vocab.size || (id >= 0 && !tok->vocab.piece[id].present))
        return sq_fail(SQ_E_FORMAT, "%s is %" PRId64 ", which is not in the vocabulary", what, id);
    return 0;
}

static int read_rule(struct sq_tok *tok, const struct sq_tok_keys *k, bool bos_default)
{
    int rc = 0;
    const bool bos = k->add_bos < 0 ? bos_default : k->add_bos > 0;
    SQ_TRY(check_id(tok, k->bos, "tokenizer.ggml.bos_token_id"));
    SQ_TRY(check_id(tok, k->eos, "tokenizer.ggml.eos_token_id"));
    SQ_TRY(check_id(tok, k->unk, "tokenizer.ggml.unknown_token_id"));
    tok->eos = (int32_t)k->eos;
    if ((bos && k->bos < 0) || (k->add_eos > 0 && k->eos < 0)) {
        rc = sq_fail(SQ_E_FORMAT, "the tokenizer adds a %s token and does not say which", bos && k->bos < 0 ? "bos" : "eos");
        goto out;
    }
    if (bos)
        SQ_TRY(sq_ids_push(&tok->prefix, (int32_t)k->bos));
    if (k->add_eos > 0)
        SQ_TRY(sq_ids_push(&tok->suffix, (int32_t)k->eos));
out:
    return rc;
}

static int read_gpt2(struct sq_tok *tok, const struct sq_tok_keys *k)
{
    const char *name = k->pre ? k->pre : "default";
    const struct pre_kind *kind = pre_find(name);
    int rc = 0;

    if (!kind)
        return sq_fail(SQ_E_UNSUP, "tokenizer.ggml.pre '%.64s' is not supported", name);
    tok->byte_level = true;
    tok->ignore_merges = kind->ignore_merges;
    if (kind->nfc)
        tok->norm[tok->nnorm++].kind = SQ_NORM_NFC;
    SQ_TRY(read_tokens(tok, k));
    SQ_TRY(read_merges(tok, k));
    for (int i = 0; i < SQ_COUNT(kind->pattern) && kind->pattern[i]; i++)
        SQ_TRY(sq_pre_split(tok, kind->pattern[i], strlen(kind->pattern[i]), SQ_ISOLATED, false));
    SQ_TRY(read_rule(tok, k, kind->add_bos));
out:
    return rc;
}

/* ---- SentencePiece BPE ----
 * Two neighbours whose spellings together are a token may merge, the best score first. As merges: every cut of a token
 * into two tokens, all with the rank of the token's score. */

enum { SPM_TOKEN_MAX = 512 };
static const struct sq_tok_str META = {"\xe2\x96\x81", 3}, SPACE = {" ", 1};

static int by_score(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static int64_t rank_of(const float *sorted, int64_t n, float score)
{
    int64_t low = 0, high = n;
    while (low < high) {
        const int64_t mid = (low + high) / 2;
        if (sorted[mid] > score)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The merges of one token; without tok they are only counted. */
static int64_t cuts(struct sq_tok *tok, const struct sq_vocab *v, int64_t id, int64_t rank)
{
    const char *s = v->bytes + v->piece[id].off;
    const size_t n = v->piece[id].len;
    int64_t count = 0;
    for (size_t i = n ? sq_utf8_len(s) : 0; i < n; i += sq_utf8_len(s + i)) {
        const int32_t left = sq_vocab_get(v, s, i), right = left < 0 ? -1 : sq_vocab_get(v, s + i, n - i);
        if (right < 0)
            continue;
        count++;
        if (tok)
            sq_map_put(&tok->merge, (uint64_t)(uint32_t)left << SQ_MAP_SHIFT | (uint32_t)right,
                       (uint64_t)rank << SQ_MAP_SHIFT | (uint64_t)id);
    }
    return count;
}

static int spm_merges(struct sq_tok *tok, const struct sq_tok_keys *k)
{
    float *sorted = NULL;
    int64_t count = 0;
    int rc = 0;

    SQ_TRY(sq_alloc(&sorted, k->ntoken));
    for (int64_t i = 0; i < k->ntoken; i++) {
        if (k->score[i] != k->score[i]) {
            rc = sq_fail(SQ_E_FORMAT, "token %" PRId64 " has score NaN", i);
            goto out;
        }
        if (k->token[i].n > SPM_TOKEN_MAX) {
            rc = sq_fail(SQ_E_FORMAT, "token %" PRId64 " has %zu bytes, more than %d", i, k->token[i].n, SPM_TOKEN_MAX);
            goto out;
        }
        sorted[i] = k->score[i];
        count += cuts(NULL, &tok->vocab, i, 0);
    }
    qsort(sorted, (size_t)k->ntoken, sizeof(*sorted), by_score);
    SQ_TRY(sq_map_init(&tok->merge, count));
    for (int64_t i = 0; i < k->ntoken; i++)
        cuts(tok, &tok->vocab, i, rank_of(sorted, k->ntoken, k->score[i]));
out:
    sq_free(sorted);
    return rc;
}

static int read_spm(struct sq_tok *tok, const struct sq_tok_keys *k)
{
    int rc = 0;

    if (!k->score)
        return sq_fail(SQ_E_FORMAT, "tokenizer.ggml.scores is missing");
    tok->byte_fallback = tok->fuse_unk = true;
    SQ_TRY(read_tokens(tok, k));
    SQ_TRY(spm_merges(tok, k));
    SQ_TRY(read_rule(tok, k, true));
    tok->unk = (int32_t)k->unk;
    tok->strip_space = k->add_space != 0;
    SQ_TRY(sq_tok_dup(&tok->space, META.p, META.n));
    if (tok->strip_space) {
        struct sq_norm *step = &tok->norm[tok->nnorm++];
        step->kind = SQ_NORM_PREPEND;
        SQ_TRY(sq_tok_dup(&step->to, META.p, META.n));
    }
    struct sq_norm *step = &tok->norm[tok->nnorm++];
    step->kind = SQ_NORM_REPLACE;
    SQ_TRY(sq_tok_dup(&step->from, SPACE.p, SPACE.n));
    SQ_TRY(sq_tok_dup(&step->to, META.p, META.n));
out:
    return rc;
}

int sq_tok_from_keys(struct sq_tok **out, const struct sq_tok_keys *k)
{
    struct sq_tok *tok = NULL;
    int rc = 0;

    *out = NULL;
    SQ_TRY(sq_tok_new(&tok));
    if (!k->model)
        rc = sq_fail(SQ_E_FORMAT, "tokenizer.ggml.model is missing");
    else if (strcmp(k->model, "gpt2") == 0)
        rc = read_gpt2(tok, k);
    else if (strcmp(k->model, "llama") == 0)
        rc = read_spm(tok, k);
    else
        rc = sq_fail(SQ_E_UNSUP, "tokenizer.ggml.model '%.64s' is not supported", k->model);
    if (rc < 0)
        goto out;
    SQ_TRY(sq_tok_seal(tok));
    *out = tok;
    tok = NULL;
out:
    sq_tok_free(&tok);
    return rc;
}

/* ---- the keys as JSON ---- */

#define KEY(name) "tokenizer.ggml." name

static int strings(struct sq_tok_str **out, int64_t *n, const json_t *obj, const char *key)
{
    json_t *list;
    const json_t *v;
    size_t i;
    int rc = 0;
    SQ_TRY(sq_json_array(&list, obj, key));
    *n = (int64_t)json_array_size(list);
    SQ_TRY(sq_alloc(out, *n));
    json_array_foreach(list, i, v) {
        if (!json_is_string(v)) {
            rc = sq_fail(SQ_E_FORMAT, "'%s': item %zu is not a string", key, i);
            goto out;
        }
        (*out)[i] = (struct sq_tok_str){json_string_value(v), json_string_length(v)};
    }
out:
    return rc;
}

/* An array of numbers that is as long as the tokens; NULL when it is absent. */
static int numbers(json_t **list, const json_t *obj, const char *key, int64_t n)
{
    int rc = 0;
    *list = json_object_get(obj, key);
    if (!*list || json_is_null(*list)) {
        *list = NULL;
        return 0;
    }
    SQ_TRY(sq_json_array(list, obj, key));
    if ((int64_t)json_array_size(*list) != n)
        return sq_fail(SQ_E_FORMAT, "'%s' has %zu items for %" PRId64 " tokens", key, json_array_size(*list), n);
    for (size_t i = 0; i < json_array_size(*list); i++)
        if (!json_is_number(json_array_get(*list, i)))
            return sq_fail(SQ_E_FORMAT, "'%s': item %zu is not a number", key, i);
out:
    return rc;
}

static int tri(int *out, const json_t *obj, const char *key)
{
    bool b = false;
    const json_t *v = json_object_get(obj, key);
    const int rc = sq_json_bool_opt(&b, obj, key);
    *out = v && !json_is_null(v) ? b : -1;
    return rc;
}

int sq_tok_from_gguf_json(struct sq_tok **out, const char *json, size_t n)
{
    struct sq_tok_keys k = SQ_TOK_KEYS_INIT;
    struct sq_tok_str *token = NULL, *merge = NULL;
    int32_t *type = NULL;
    float *score = NULL;
    json_t *root = NULL, *types, *scores;
    int rc = 0;

    *out = NULL;
    SQ_TRY(sq_json_parse(&root, json, n, "tokenizer.gguf.json"));
    SQ_TRY(sq_json_str(&k.model, root, KEY("model")));
    SQ_TRY(sq_json_str_opt(&k.pre, root, KEY("pre")));
    SQ_TRY(strings(&token, &k.ntoken, root, KEY("tokens")));
    if (json_object_get(root, KEY("merges")))
        SQ_TRY(strings(&merge, &k.nmerge, root, KEY("merges")));
    SQ_TRY(numbers(&types, root, KEY("token_type"), k.ntoken));
    SQ_TRY(numbers(&scores, root, KEY("scores"), k.ntoken));
    SQ_TRY(sq_alloc(&type, types ? k.ntoken : 0));
    SQ_TRY(sq_alloc(&score, scores ? k.ntoken : 0));
    for (int64_t i = 0; types && i < k.ntoken; i++)
        type[i] = (int32_t)json_integer_value(json_array_get(types, (size_t)i));
    for (int64_t i = 0; scores && i < k.ntoken; i++)
        score[i] = (float)json_number_value(json_array_get(scores, (size_t)i));
    k.token = token;
    k.merge = merge;
    k.type = type;
    k.score = score;
    SQ_TRY(sq_json_int_opt(&k.bos, root, KEY("bos_token_id"), 0, SQ_VOCAB_MAX - 1));
    SQ_TRY(sq_json_int_opt(&k.eos, root, KEY("eos_token_id"), 0, SQ_VOCAB_MAX - 1));
    SQ_TRY(sq_json_int_opt(&k.unk, root, KEY("unknown_token_id"), 0, SQ_VOCAB_MAX - 1));
    SQ_TRY(tri(&k.add_bos, root, KEY("add_bos_token")));
    SQ_TRY(tri(&k.add_eos, root, KEY("add_eos_token")));
    SQ_TRY(tri(&k.add_space, root, KEY("add_space_prefix")));
    SQ_TRY(sq_tok_from_keys(out, &k));
out:
    sq_free(score);
    sq_free(type);
    sq_free(merge);
    sq_free(token);
    json_decref(root);
    return rc < 0 ? sq_fail_in(rc, "GGUF tokenizer") : rc;
}

/* ---- side files ---- */

int sq_tok_files_room(struct sq_tok_files *f, const char *name, int64_t n, void **room)
{
    const struct {
        const char *name;
        char **p;
        size_t *n;
    } known[] = {{"tokenizer.json", &f->json, &f->njson},
                 {"tokenizer_config.json", &f->config, &f->nconfig},
                 {"tokenizer.gguf.json", &f->gguf, &f->ngguf}};
    for (int i = 0; i < SQ_COUNT(known); i++) {
        if (strcmp(name, known[i].name) != 0)
            continue;
        if (*known[i].p)
            return sq_fail(SQ_E_FORMAT, "'%s' comes twice", name);
        if (n < 0 || n > SQ_TEXT_MAX)
            return sq_fail(SQ_E_FORMAT, "'%s' has %" PRId64 " bytes", name, n);
        const int rc = sq_alloc(known[i].p, n + 1);
        if (rc < 0)
            return rc;
        *known[i].n = (size_t)n;
        *room = *known[i].p;
        return 1;
    }
    return 0;
}

int sq_tok_from_files(struct sq_tok **out, const struct sq_tok_files *f)
{
    if (f->json)
        return sq_tok_from_json(out, f->json, f->njson, f->config, f->nconfig);
    if (f->gguf)
        return sq_tok_from_gguf_json(out, f->gguf, f->ngguf);
    *out = NULL;
    return sq_fail(SQ_E_ARG, "the model has no tokenizer.json");
}

void sq_tok_files_release(struct sq_tok_files *f)
{
    sq_free(f->json);
    sq_free(f->config);
    sq_free(f->gguf);
    *f = (struct sq_tok_files)SQ_TOK_FILES_INIT;
}
