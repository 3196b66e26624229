/* Byte-level BPE in the form that llama.cpp reads: token texts in the byte alphabet, in the order of their ids; merges
 * "a b"; and a name for the pre-tokenizer, because readers hold the regular expressions themselves. A pattern without
 * a name there is refused: a near one would cut texts differently and nobody would notice. */
#include "gguf_tok.h"

#include <stdio.h>
#include <string.h>

#include "sq/json.h"

/* token_type */
enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5 };

/* what splits a text, in front of the byte-level alphabet -> the reader's name */
static const struct {
    const char *name, *pattern;
    bool digits; /* a Digits step with individual_digits in front */
} pres[] = {
    {"gpt-2", NULL, false},
    {"smollm", NULL, true},
    {"llama-bpe",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", false},
    {"qwen2",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", false},
    {"gpt-2", "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", false},
};

static const struct sq_side *side_find(const struct side_files *s, const char *name)
{
    for (int64_t i = 0; i < s->n; i++)
        if (strcmp(s->file[i].name, name) == 0)
            return &s->file[i];
    return NULL;
}

/* Parsed, a new reference; NULL when there is no such file. */
static int side_json(json_t **out, const struct side_files *s, const char *name)
{
    const struct sq_side *f = side_find(s, name);
    *out = NULL;
    return f ? sq_json_parse(out, f->data, f->size, name) : 0;
}

static bool is_type(const json_t *obj, const char *type)
{
    const char *t = json_string_value(json_object_get(obj, "type"));
    return t && strcmp(t, type) == 0;
}

/* One step of the pre-tokenizer; false for one that is not known. */
static bool pre_step(const json_t *step, const char **pattern, bool *digits, bool *regex)
{
    if (is_type(step, "ByteLevel")) {
        *regex = json_object_get(step, "use_regex") ? json_is_true(json_object_get(step, "use_regex")) : true;
        return !json_is_true(json_object_get(step, "add_prefix_space"));
    }
    if (is_type(step, "Digits")) {
        *digits = json_is_true(json_object_get(step, "individual_digits"));
        return *digits;
    }
    const char *how = json_string_value(json_object_get(step, "behavior"));
    *pattern = json_string_value(json_object_get(json_object_get(step, "pattern"), "Regex"));
    return is_type(step, "Split") && *pattern && how && strcmp(how, "Isolated") == 0 &&
           !json_is_true(json_object_get(step, "invert"));
}

static int pre_name(const char **out, const json_t *tok)
{
    const json_t *pre = json_object_get(tok, "pre_tokenizer"), *list = json_object_get(pre, "pretokenizers");
    const size_t n = list ? json_array_size(list) : 1;
    const char *pattern = NULL;
    bool digits = false, regex = false, known = json_is_object(pre) && n > 0;

    for (size_t i = 0; known && i < n; i++)
        known = pre_step(list ? json_array_get(list, i) : pre, &pattern, &digits, &regex);
    for (int64_t i = 0; known && i < SQ_COUNT(pres); i++)
        if (regex == !pres[i].pattern && digits == pres[i].digits &&
            (!pattern ? !pres[i].pattern : pres[i].pattern && strcmp(pattern, pres[i].pattern) == 0)) {
            *out = pres[i].name;
            return 0;
        }
    return sq_fail(SQ_E_UNSUP, "tokenizer.json: pre-tokenizer '%.200s' is none that gguf readers have a name for",
                   pattern ? pattern : json_is_object(pre) ? json_string_value(json_object_get(pre, "type")) : "none");
}

/* ---- texts and types of the tokens ---- */

struct vocab {
    const char **text; /* borrowed from the parsed files, NULL: no token of that id */
    size_t *len;
    int32_t *type;
    int64_t n;
};

static int vocab_put(struct vocab *v, const char *text, size_t len, const json_t *id, int32_t type)
{
    const int64_t i = json_is_integer(id) ? (int64_t)json_integer_value(id) : -1;
    if (!text || i < 0 || i >= v->n)
        return sq_fail(SQ_E_FORMAT, "tokenizer.json: token '%.60s' has the id %" PRId64 ", the model has %" PRId64
                       " tokens", text ? text : "", i, v->n);
    if (v->text[i] && type == TOKEN_NORMAL)
        return sq_fail(SQ_E_FORMAT, "tokenizer.json: tokens '%.60s' and '%.60s' share the id %" PRId64, v->text[i],
                       text, i);
    v->text[i] = text;
    v->len[i] = len;
    v->type[i] = type;
    return 0;
}

static int vocab_fill(struct vocab *v, const json_t *tok, const json_t *model)
{
    json_t *vocab = NULL, *id;
    const json_t *added = json_object_get(tok, "added_tokens"), *entry;
    const char *text;
    size_t i, len;
    int rc;

    SQ_TRY(sq_alloc(&v->text, v->n));
    SQ_TRY(sq_alloc(&v->len, v->n));
    SQ_TRY(sq_alloc(&v->type, v->n));
    SQ_TRY(sq_json_object(&vocab, model, "vocab"));
    json_object_keylen_foreach(vocab, text, len, id)
        SQ_TRY(vocab_put(v, text, len, id, TOKEN_NORMAL));
    json_array_foreach(added, i, entry) {
        const json_t *content = json_object_get(entry, "content");
        SQ_TRY(vocab_put(v, json_string_value(content), json_string_length(content), json_object_get(entry, "id"),
                         json_is_true(json_object_get(entry, "special")) ? TOKEN_CONTROL : TOKEN_USER));
    }
out:
    return rc;
}

static void vocab_release(struct vocab *v)
{
    sq_free(v->type);
    sq_free(v->len);
    sq_free(v->text);
}

static int64_t vocab_find(const struct vocab *v, const char *text)
{
    for (int64_t i = 0; i < v->n; i++)
        if (v->text[i] && v->type[i] != TOKEN_NORMAL && strcmp(v->text[i], text) == 0)
            return i;
    for (int64_t i = 0; i < v->n; i++)
        if (v->text[i] && strcmp(v->text[i], text) == 0)
            return i;
    return -1;
}

static void put_tokens(struct bytes *kv, const struct vocab *v)
{
    kv_array(kv, "tokenizer.ggml.tokens", GGUF_STRING, v->n);
    for (int64_t i = 0; i < v->n; i++) {
        char pad[32];
        if (v->text[i])
            bytes_str(kv, v->text[i], v->len[i]);
        else
            bytes_str(kv, pad, (size_t)snprintf(pad, sizeof pad, "[PAD%" PRId64 "]", i));
    }
    kv_array(kv, "tokenizer.ggml.token_type", GGUF_I32, v->n);
    for (int64_t i = 0; i < v->n; i++)
        bytes_u32(kv, (uint32_t)(v->text[i] ? v->type[i] : TOKEN_UNUSED));
}

/* A merge is "a b" or, in newer files, ["a", "b"]. */
static int put_merges(struct bytes *kv, const json_t *model)
{
    json_t *merges = NULL, *m;
    size_t i;
    int rc;

    SQ_TRY(sq_json_array(&merges, model, "merges"));
    kv_array(kv, "tokenizer.ggml.merges", GGUF_STRING, (int64_t)json_array_size(merges));
    json_array_foreach(merges, i, m) {
        const json_t *a = json_array_get(m, 0), *b = json_array_get(m, 1);
        if (json_is_string(m)) {
            bytes_str(kv, json_string_value(m), json_string_length(m));
        } else if (json_array_size(m) == 2 && json_is_string(a) && json_is_string(b)) {
            const size_t na = json_string_length(a), nb = json_string_length(b);
            bytes_u64(kv, na + 1 + nb);
            bytes_add(kv, json_string_value(a), na);
            bytes_add(kv, " ", 1);
            bytes_add(kv, json_string_value(b), nb);
        } else {
            rc = sq_fail(SQ_E_FORMAT, "tokenizer.json: merge %zu is no pair", i);
            goto out;
        }
    }
out:
    return rc;
}

/* ---- special tokens ---- */

/* "bos_token": "<s>" or {"content": "<s>"} */
static const char *special_text(const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

/* The id of a special token: by its text, else by the number in config.json (the first of a list); -1: none. */
static int64_t special_id(const struct vocab *v, const json_t *tokcfg, const json_t *map, const json_t *config,
                          const char *name)
{
    char key[32];
    snprintf(key, sizeof key, "%s_token", name);
    const char *text = special_text(tokcfg, key);
    if (!text)
        text = special_text(map, key);
    if (text)
        return vocab_find(v, text);
    snprintf(key, sizeof key, "%s_token_id", name);
    const json_t *id = json_object_get(config, key);
    if (json_is_array(id))
        id = json_array_get(id, 0);
    const int64_t i = json_is_integer(id) ? (int64_t)json_integer_value(id) : -1;
    return i < v->n ? i : -1;
}

/* Whether a text begins with the bos token: the template of the post-processor says so, and for tokenizers of class
 * Llama, which build their template at run time, add_bos_token. */
static bool adds_bos(const json_t *tok, const json_t *tokcfg, const struct vocab *v, int64_t bos)
{
    const json_t *post = json_object_get(tok, "post_processor"), *list = json_object_get(post, "processors");
    const char *class = json_string_value(json_object_get(tokcfg, "tokenizer_class"));
    const size_t n = list ? json_array_size(list) : 1;

    if (bos < 0)
        return false;
    if (class && strncmp(class, "LlamaTokenizer", 14) == 0 && json_object_get(tokcfg, "add_bos_token"))
        return json_is_true(json_object_get(tokcfg, "add_bos_token"));
    for (size_t i = 0; i < n; i++) {
        const json_t *p = list ? json_array_get(list, i) : post;
        const json_t *first = json_object_get(json_array_get(json_object_get(p, "single"), 0), "SpecialToken");
        const char *id = json_string_value(json_object_get(first, "id"));
        if (is_type(p, "TemplateProcessing") && id)
            return vocab_find(v, id) == bos;
    }
    return false;
}

static int put_specials(struct bytes *kv, const struct side_files *side, const json_t *tok, const json_t *tokcfg,
                        const struct vocab *v, const json_t *config)
{
    static const char *const names[][2] = {{"bos", "tokenizer.ggml.bos_token_id"},
                                           {"eos", "tokenizer.ggml.eos_token_id"},
                                           {"unk", "tokenizer.ggml.unknown_token_id"},
                                           {"pad", "tokenizer.ggml.padding_token_id"}};
    json_t *map = NULL;
    int64_t bos = -1;
    int rc;

    SQ_TRY(side_json(&map, side, "special_tokens_map.json"));
    for (int64_t i = 0; i < SQ_COUNT(names); i++) {
        const int64_t id = special_id(v, tokcfg, map, config, names[i][0]);
        if (i == 0)
            bos = id;
        if (id >= 0)
            kv_u32(kv, names[i][1], id);
    }
    kv_bool(kv, "tokenizer.ggml.add_bos_token", adds_bos(tok, tokcfg, v, bos));
out:
    json_decref(map);
    return rc;
}

static void put_chat_template(struct bytes *kv, const struct side_files *side, const json_t *tokcfg)
{
    const struct sq_side *jinja = side_find(side, "chat_template.jinja");
    const json_t *t = json_object_get(tokcfg, "chat_template"), *entry;
    size_t i;

    if (jinja) {
        kv_str(kv, "tokenizer.chat_template", jinja->data, jinja->size);
        return;
    }
    json_array_foreach(t, i, entry) {
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0) {
            t = json_object_get(entry, "template");
            break;
        }
    }
    if (json_is_string(t))
        kv_str(kv, "tokenizer.chat_template", json_string_value(t), json_string_length(t));
}

/* ---- the two sources ---- */

static int from_tokenizer_json(struct bytes *kv, const struct side_files *side, const json_t *tok,
                               const json_t *config, int64_t vocab)
{
    const json_t *model = json_object_get(tok, "model");
    struct vocab v = {.n = vocab};
    json_t *tokcfg = NULL;
    const char *pre = NULL;
    int rc;

    if (!is_type(model, "BPE") || json_is_true(json_object_get(model, "byte_fallback"))) {
        const char *type = json_string_value(json_object_get(model, "type"));
        rc = sq_fail(SQ_E_UNSUP, "tokenizer.json: a %s tokenizer%s; gguf is written for byte-level BPE only",
                     type ? type : "nameless", is_type(model, "BPE") ? " of SentencePiece kind" : "");
        goto out;
    }
    SQ_TRY(side_json(&tokcfg, side, "tokenizer_config.json"));
    SQ_TRY(pre_name(&pre, tok));
    SQ_TRY(vocab_fill(&v, tok, model));
    kv_str(kv, "tokenizer.ggml.model", "gpt2", 4);
    kv_str(kv, "tokenizer.ggml.pre", pre, strlen(pre));
    put_tokens(kv, &v);
    SQ_TRY(put_merges(kv, model));
    SQ_TRY(put_specials(kv, side, tok, tokcfg, &v, config));
    put_chat_template(kv, side, tokcfg);
    rc = kv->rc;
out:
    vocab_release(&v);
    json_decref(tokcfg);
    return rc;
}

/* Element type of an array of the side file: what GGUF writers use for that key, else what its values need. */
static enum gguf_value element_type(const char *key, const json_t *list)
{
    const json_t *first = json_array_get(list, 0);
    if (strcmp(key, "tokenizer.ggml.precompiled_charsmap") == 0)
        return GGUF_U8;
    if (strcmp(key, "tokenizer.ggml.scores") == 0 || json_is_real(first))
        return GGUF_F32;
    return json_is_integer(first) ? GGUF_I32 : json_is_boolean(first) ? GGUF_BOOL : GGUF_STRING;
}

static int copy_array(struct bytes *kv, const char *key, const json_t *list)
{
    const enum gguf_value type = element_type(key, list);
    const json_t *v;
    size_t i;

    kv_array(kv, key, type, (int64_t)json_array_size(list));
    json_array_foreach(list, i, v) {
        const float f = (float)json_number_value(v);
        const json_int_t n = json_integer_value(v);
        const uint8_t u = (uint8_t)(type == GGUF_BOOL ? json_is_true(v) : n);
        if (type == GGUF_STRING ? !json_is_string(v) : type == GGUF_BOOL ? !json_is_boolean(v)
            : type == GGUF_F32  ? !json_is_number(v)
                                : !json_is_integer(v) || n < INT32_MIN || n > INT32_MAX)
            return sq_fail(SQ_E_FORMAT, "tokenizer.gguf.json: element %zu of '%s' is of another kind", i, key);
        if (type == GGUF_STRING)
            bytes_str(kv, json_string_value(v), json_string_length(v));
        else if (type == GGUF_F32)
            bytes_add(kv, &f, sizeof f);
        else if (type == GGUF_I32)
            bytes_u32(kv, (uint32_t)(int32_t)n);
        else
            bytes_add(kv, &u, 1);
    }
    return 0;
}

static int copy_pairs(struct bytes *kv, const json_t *pairs)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)pairs, key, v) {
        int rc = 0;
        if (json_is_string(v))
            kv_str(kv, key, json_string_value(v), json_string_length(v));
        else if (json_is_boolean(v))
            kv_bool(kv, key, json_is_true(v));
        else if (json_is_integer(v))
            kv_u32(kv, key, (int64_t)json_integer_value(v));
        else if (json_is_real(v))
            kv_f32(kv, key, json_real_value(v));
        else if (json_is_array(v))
            rc = copy_array(kv, key, v);
        else
            rc = sq_fail(SQ_E_FORMAT, "tokenizer.gguf.json: '%s' is of no kind that gguf has", key);
        if (rc < 0)
            return rc;
    }
    return kv->rc;
}

int gguf_tokenizer(struct bytes *kv, const struct side_files *side, const json_t *config, int64_t vocab)
{
    json_t *pairs = NULL, *tok = NULL;
    int rc;

    SQ_TRY(side_json(&pairs, side, "tokenizer.gguf.json"));
    if (pairs) {
        const size_t n = json_array_size(json_object_get(pairs, "tokenizer.ggml.tokens"));
        if (n != (size_t)vocab) {
            rc = sq_fail(SQ_E_FORMAT, "tokenizer.gguf.json has %zu tokens, the model %" PRId64, n, vocab);
            goto out;
        }
        SQ_TRY(copy_pairs(kv, pairs));
        goto out;
    }
    SQ_TRY(side_json(&tok, side, "tokenizer.json"));
    rc = tok ? from_tokenizer_json(kv, side, tok, config, vocab)
             : sq_fail(SQ_E_UNSUP, "the stream has no tokenizer.json; --no-tokenizer writes a file that takes ids only");
out:
    json_decref(tok);
    json_decref(pairs);
    return rc;
}

void gguf_no_tokenizer(struct bytes *kv)
{
    kv_str(kv, "tokenizer.ggml.model", "no_vocab", 8);
}
