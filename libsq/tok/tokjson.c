#include <stdio.h>
#include <string.h>

#include "parts.h"
#include "sq/json.h"

/* tokenizer.json of Hugging Face's tokenizers, read strictly: what would change ids and is not done here is refused. */

struct reader {
    struct sq_tok *tok;
    const json_t *model, *added;
    bool nul; /* U+0000 was written as U+FDD0 for the parser */
    struct sq_bytes text[2];
};

/* ---- U+0000 ----
 * Character vocabularies hold it as a key, which the JSON library refuses. It travels as the noncharacter U+FDD0, which
 * no text may interchange; a file that has both is refused. */

static const char STAND_IN[] = "\xef\xb7\x90";

static bool escaped_at(const char *s, size_t i)
{
    size_t back = 0;
    while (back < i && s[i - 1 - back] == '\\')
        back++;
    return back % 2 == 1;
}

static int hide_nul(char **copy, const char *s, size_t n)
{
    *copy = NULL;
    if (!memmem(s, n, "\\u0000", 6))
        return 0;
    if (memmem(s, n, STAND_IN, 3) || memmem(s, n, "\\ufdd0", 6) || memmem(s, n, "\\uFDD0", 6))
        return sq_fail(SQ_E_UNSUP, "tokenizer.json: U+0000 and U+FDD0 together are not supported");
    const int rc = sq_alloc(copy, (int64_t)n);
    if (rc < 0)
        return rc;
    memcpy(*copy, s, n);
    for (char *p = *copy; (p = memmem(p, n - (size_t)(p - *copy), "u0000", 5)); p++)
        if (escaped_at(*copy, (size_t)(p - *copy)))
            memcpy(p, "ufdd0", 5);
    return 0;
}

/* The text of a JSON string; kept in r->text[which] where it had to be restored. */
static int restore(struct sq_tok_str *out, struct reader *r, int which, const char *s, size_t n)
{
    struct sq_bytes *b = &r->text[which];
    int rc = 0;
    *out = (struct sq_tok_str){s, n};
    if (!r->nul || !memmem(s, n, STAND_IN, 3))
        return 0;
    b->n = 0;
    for (size_t i = 0; i < n; i++) {
        const bool nul = n - i >= 3 && memcmp(s + i, STAND_IN, 3) == 0;
        SQ_TRY(sq_bytes_add(b, nul ? "" : s + i, 1));
        i += nul ? 2 : 0;
    }
    *out = (struct sq_tok_str){b->p, b->n};
out:
    return rc;
}

static int string_of(struct sq_tok_str *out, struct reader *r, int which, const json_t *v, const char *what)
{
    if (!json_is_string(v))
        return sq_fail(SQ_E_FORMAT, "%s is not a string", what);
    return restore(out, r, which, json_string_value(v), json_string_length(v));
}

static int member(struct sq_tok_str *out, struct reader *r, int which, const json_t *obj, const char *key)
{
    return string_of(out, r, which, json_object_get(obj, key), key);
}

/* ---- model ---- */

static bool empty(const json_t *v)
{
    return !v || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0);
}

static int check_model(struct reader *r)
{
    const json_t *m = r->model, *dropout = json_object_get(m, "dropout");
    const char *type = "BPE";
    struct sq_tok *tok = r->tok;
    int rc = 0;

    SQ_TRY(sq_json_str_opt(&type, m, "type"));
    if (strcmp(type, "BPE") != 0) {
        rc = sq_fail(SQ_E_UNSUP, "tokenizer model '%.64s' is not supported, only BPE", type);
        goto out;
    }
    if (!empty(dropout) && !(json_is_number(dropout) && !(json_number_value(dropout) > 0))) {
        rc = sq_fail(SQ_E_UNSUP, "dropout in a tokenizer is not supported");
        goto out;
    }
    if (!empty(json_object_get(m, "continuing_subword_prefix")) || !empty(json_object_get(m, "end_of_word_suffix"))) {
        rc = sq_fail(SQ_E_UNSUP, "continuing_subword_prefix and end_of_word_suffix are not supported");
        goto out;
    }
    SQ_TRY(sq_json_bool_opt(&tok->fuse_unk, m, "fuse_unk"));
    SQ_TRY(sq_json_bool_opt(&tok->byte_fallback, m, "byte_fallback"));
    SQ_TRY(sq_json_bool_opt(&tok->ignore_merges, m, "ignore_merges"));
out:
    return rc;
}

static int read_vocab(struct reader *r)
{
    json_t *vocab, *v;
    const char *key;
    size_t i, bytes = 0;
    int64_t top = -1, count = 0;
    int rc = 0;

    SQ_TRY(sq_json_object(&vocab, r->model, "vocab"));
    json_object_foreach(vocab, key, v) {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= SQ_VOCAB_MAX) {
            rc = sq_fail(SQ_E_FORMAT, "token '%.64s' has no id in 0 .. %d", key, SQ_VOCAB_MAX - 1);
            goto out;
        }
        top = SQ_MAX(top, (int64_t)json_integer_value(v));
        bytes += strlen(key);
        count++;
    }
    json_array_foreach(r->added, i, v) {
        int64_t id;
        SQ_TRY(sq_json_int(&id, v, "id", 0, SQ_VOCAB_MAX - 1));
        top = SQ_MAX(top, id);
        bytes += json_string_length(json_object_get(v, "content"));
        count++;
    }
    SQ_TRY(sq_vocab_init(&r->tok->vocab, top + 1, count, bytes));
    json_object_foreach(vocab, key, v) {
        struct sq_tok_str s;
        SQ_TRY(restore(&s, r, 0, key, strlen(key)));
        SQ_TRY(sq_vocab_put(&r->tok->vocab, (int64_t)json_integer_value(v), s.p, s.n));
    }
out:
    return rc;
}

static int read_unk(struct reader *r)
{
    struct sq_tok_str s;
    int rc = 0;
    if (empty(json_object_get(r->model, "unk_token")))
        return 0;
    SQ_TRY(member(&s, r, 0, r->model, "unk_token"));
    r->tok->unk = sq_vocab_get(&r->tok->vocab, s.p, s.n);
    if (r->tok->unk < 0)
        rc = sq_fail(SQ_E_FORMAT, "unk_token '%.64s' is not in the vocabulary", s.p);
out:
    return rc;
}

static int read_merges(struct reader *r)
{
    json_t *merges, *v;
    size_t i;
    int rc = 0;

    SQ_TRY(sq_json_array(&merges, r->model, "merges"));
    if (json_array_size(merges) > INT32_MAX) {
        rc = sq_fail(SQ_E_FORMAT, "%zu merges", json_array_size(merges));
        goto out;
    }
    SQ_TRY(sq_map_init(&r->tok->merge, (int64_t)json_array_size(merges)));
    json_array_foreach(merges, i, v) {
        struct sq_tok_str left, right;
        if (json_is_array(v) && json_array_size(v) == 2) {
            SQ_TRY(string_of(&left, r, 0, json_array_get(v, 0), "the left part of a merge"));
            SQ_TRY(string_of(&right, r, 1, json_array_get(v, 1), "the right part of a merge"));
        } else {
            SQ_TRY(string_of(&left, r, 0, v, "a merge"));
            const char *gap = memchr(left.p, ' ', left.n);
            if (!gap || memchr(gap + 1, ' ', left.n - (size_t)(gap + 1 - left.p))) {
                rc = sq_fail(SQ_E_FORMAT, "merge %zu '%.64s' is not two tokens with a space between them", i, left.p);
                goto out;
            }
            right = (struct sq_tok_str){gap + 1, left.n - (size_t)(gap + 1 - left.p)};
            left.n = (size_t)(gap - left.p);
        }
        SQ_TRY(sq_tok_merge(r->tok, (int64_t)i, left, right));
    }
out:
    return rc;
}

static int read_added(struct reader *r)
{
    const json_t *v;
    size_t i;
    int rc = 0;

    SQ_TRY(sq_alloc(&r->tok->added, (int64_t)json_array_size(r->added)));
    json_array_foreach(r->added, i, v) {
        struct sq_added *a = &r->tok->added[r->tok->nadded];
        bool special = false, word = false;
        int64_t id;
        struct sq_tok_str s;
        *a = (struct sq_added){.id = -1};
        SQ_TRY(sq_json_int(&id, v, "id", 0, SQ_VOCAB_MAX - 1));
        SQ_TRY(member(&s, r, 0, v, "content"));
        SQ_TRY(sq_json_bool_opt(&special, v, "special"));
        SQ_TRY(sq_json_bool_opt(&word, v, "single_word"));
        a->normalized = !special; /* the reference's default */
        SQ_TRY(sq_json_bool_opt(&a->normalized, v, "normalized"));
        SQ_TRY(sq_json_bool_opt(&a->lstrip, v, "lstrip"));
        SQ_TRY(sq_json_bool_opt(&a->rstrip, v, "rstrip"));
        if (s.n == 0)
            continue;
        if (word) {
            rc = sq_fail(SQ_E_UNSUP, "added token '%.64s' has single_word, which is not supported", s.p);
            goto out;
        }
        const int32_t has = sq_vocab_get(&r->tok->vocab, s.p, s.n);
        if (has >= 0 && has != id) {
            rc = sq_fail(SQ_E_FORMAT, "added token '%.64s' has id %" PRId64 " but is %d in the vocabulary", s.p, id, has);
            goto out;
        }
        if (has < 0)
            SQ_TRY(sq_vocab_put(&r->tok->vocab, id, s.p, s.n));
        a->id = (int32_t)id;
        r->tok->vocab.piece[id].added = 1;
        r->tok->vocab.piece[id].special = special;
        r->tok->nadded++;
    }
out:
    return rc;
}

/* ---- normalizer ---- */

static int norm_new(struct sq_norm **out, struct sq_tok *tok)
{
    if (tok->nnorm == SQ_STEPS_MAX)
        return sq_fail(SQ_E_UNSUP, "the normalizer has more than %d steps", SQ_STEPS_MAX);
    *out = &tok->norm[tok->nnorm++];
    return 0;
}

static int read_normalizer(struct reader *r, const json_t *v, int depth)
{
    const char *type;
    json_t *list, *pattern;
    const json_t *part;
    struct sq_norm *step = NULL;
    struct sq_tok_str s;
    size_t i;
    int rc = 0;

    if (!v || json_is_null(v))
        return 0;
    SQ_TRY(sq_json_str(&type, v, "type"));
    if (strcmp(type, "Sequence") == 0 && depth < SQ_STEPS_MAX) {
        SQ_TRY(sq_json_array(&list, v, "normalizers"));
        json_array_foreach(list, i, part)
            SQ_TRY(read_normalizer(r, part, depth + 1));
    } else if (strcmp(type, "NFC") == 0) {
        SQ_TRY(norm_new(&step, r->tok));
        step->kind = SQ_NORM_NFC;
    } else if (strcmp(type, "Prepend") == 0) {
        SQ_TRY(norm_new(&step, r->tok));
        step->kind = SQ_NORM_PREPEND;
        SQ_TRY(member(&s, r, 0, v, "prepend"));
        SQ_TRY(sq_tok_dup(&step->to, s.p, s.n));
        r->tok->strip_space = true;
    } else if (strcmp(type, "Replace") == 0) {
        SQ_TRY(sq_json_object(&pattern, v, "pattern"));
        if (!json_object_get(pattern, "String")) {
            rc = sq_fail(SQ_E_UNSUP, "a normalizer that replaces by pattern is not supported");
            goto out;
        }
        SQ_TRY(norm_new(&step, r->tok));
        step->kind = SQ_NORM_REPLACE;
        SQ_TRY(member(&s, r, 0, pattern, "String"));
        if (s.n == 0) {
            rc = sq_fail(SQ_E_FORMAT, "a normalizer replaces the empty string");
            goto out;
        }
        SQ_TRY(sq_tok_dup(&step->from, s.p, s.n));
        SQ_TRY(member(&s, r, 0, v, "content"));
        SQ_TRY(sq_tok_dup(&step->to, s.p, s.n));
        if (step->from.n == 1 && step->from.p[0] == ' ' && !r->tok->space.p)
            SQ_TRY(sq_tok_dup(&r->tok->space, s.p, s.n));
    } else {
        rc = sq_fail(SQ_E_UNSUP, "normalizer '%.64s' is not supported", type);
    }
out:
    return rc;
}

/* ---- pre-tokenizer ---- */

static int behavior_of(enum sq_behavior *out, const json_t *v)
{
    static const char *const names[] = {[SQ_ISOLATED] = "Isolated", [SQ_REMOVED] = "Removed",
                                        [SQ_CONTIGUOUS] = "Contiguous", [SQ_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [SQ_WITH_NEXT] = "MergedWithNext"};
    const char *name;
    int rc = 0;
    SQ_TRY(sq_json_str(&name, v, "behavior"));
    for (int i = 0; i < SQ_COUNT(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum sq_behavior)i;
            return 0;
        }
    }
    rc = sq_fail(SQ_E_UNSUP, "split behavior '%.64s' is not supported", name);
out:
    return rc;
}

static int read_split(struct reader *r, const json_t *v)
{
    enum sq_behavior behavior = SQ_ISOLATED;
    bool invert = false;
    json_t *pattern;
    struct sq_tok_str s;
    int rc = 0;

    SQ_TRY(behavior_of(&behavior, v));
    SQ_TRY(sq_json_bool_opt(&invert, v, "invert"));
    SQ_TRY(sq_json_object(&pattern, v, "pattern"));
    if (json_object_get(pattern, "String")) {
        SQ_TRY(member(&s, r, 0, pattern, "String"));
        SQ_TRY(sq_pre_split_text(r->tok, s.p, s.n, behavior, invert));
    } else {
        SQ_TRY(member(&s, r, 0, pattern, "Regex"));
        SQ_TRY(sq_pre_split(r->tok, s.p, s.n, behavior, invert));
    }
out:
    return rc;
}

static int read_byte_level(struct reader *r, const json_t *v)
{
    bool space = true, regex = true; /* the reference's defaults */
    int rc = 0;
    SQ_TRY(sq_json_bool_opt(&space, v, "add_prefix_space"));
    SQ_TRY(sq_json_bool_opt(&regex, v, "use_regex"));
    if (space) {
        if (r->tok->npre == SQ_STEPS_MAX)
            return sq_fail(SQ_E_UNSUP, "the pre-tokenizer has more than %d steps", SQ_STEPS_MAX);
        r->tok->pre[r->tok->npre++].kind = SQ_PRE_SPACE;
    }
    if (regex)
        SQ_TRY(sq_pre_split(r->tok, sq_pattern_gpt2, strlen(sq_pattern_gpt2), SQ_ISOLATED, false));
    r->tok->byte_level = true;
out:
    return rc;
}

static int read_metaspace(struct reader *r, const json_t *v)
{
    static const char *const names[] = {[SQ_META_NEVER] = "never", [SQ_META_FIRST] = "first", [SQ_META_ALWAYS] = "always"};
    const char *scheme = "always";
    bool prefix = true, split = true;
    struct sq_tok_str s;
    int rc = 0, k = 0;

    SQ_TRY(sq_json_bool_opt(&prefix, v, "add_prefix_space")); /* older files */
    if (!prefix)
        scheme = "never";
    SQ_TRY(sq_json_str_opt(&scheme, v, "prepend_scheme"));
    SQ_TRY(sq_json_bool_opt(&split, v, "split"));
    SQ_TRY(member(&s, r, 0, v, "replacement"));
    while (k < SQ_COUNT(names) && strcmp(names[k], scheme) != 0)
        k++;
    if (k == SQ_COUNT(names)) {
        rc = sq_fail(SQ_E_UNSUP, "prepend_scheme '%.64s' is not supported", scheme);
        goto out;
    }
    if (r->tok->npre == SQ_STEPS_MAX) {
        rc = sq_fail(SQ_E_UNSUP, "the pre-tokenizer has more than %d steps", SQ_STEPS_MAX);
        goto out;
    }
    struct sq_pre *step = &r->tok->pre[r->tok->npre++];
    step->kind = SQ_PRE_META;
    step->scheme = (unsigned)k;
    SQ_TRY(sq_tok_dup(&step->meta, s.p, s.n));
    if (!r->tok->space.p)
        SQ_TRY(sq_tok_dup(&r->tok->space, s.p, s.n));
    r->tok->strip_space = step->scheme != SQ_META_NEVER;
    if (split)
        SQ_TRY(sq_pre_split_text(r->tok, s.p, s.n, SQ_WITH_NEXT, false));
out:
    return rc;
}

static int read_pre(struct reader *r, const json_t *v, int depth)
{
    const char *type;
    json_t *list;
    const json_t *part;
    bool each = false;
    size_t i;
    int rc = 0;

    if (!v || json_is_null(v))
        return 0;
    SQ_TRY(sq_json_str(&type, v, "type"));
    if (r->tok->byte_level) {
        rc = sq_fail(SQ_E_UNSUP, "pre-tokenizer '%.64s' after ByteLevel is not supported", type);
    } else if (strcmp(type, "Sequence") == 0 && depth < SQ_STEPS_MAX) {
        SQ_TRY(sq_json_array(&list, v, "pretokenizers"));
        json_array_foreach(list, i, part)
            SQ_TRY(read_pre(r, part, depth + 1));
    } else if (strcmp(type, "ByteLevel") == 0) {
        rc = read_byte_level(r, v);
    } else if (strcmp(type, "Split") == 0) {
        rc = read_split(r, v);
    } else if (strcmp(type, "Metaspace") == 0) {
        rc = read_metaspace(r, v);
    } else if (strcmp(type, "Digits") == 0) {
        SQ_TRY(sq_json_bool_opt(&each, v, "individual_digits"));
        rc = sq_pre_split(r->tok, "\\p{N}", 5, each ? SQ_ISOLATED : SQ_CONTIGUOUS, false);
    } else {
        rc = sq_fail(SQ_E_UNSUP, "pre-tokenizer '%.64s' is not supported", type);
    }
out:
    return rc;
}

/* ---- BOS and EOS ---- */

static int push_special(struct sq_ids *ids, const struct sq_tok *tok, const json_t *specials, const char *name)
{
    json_t *list;
    const json_t *v;
    size_t i;
    int rc = 0;
    SQ_TRY(sq_json_array(&list, json_object_get(specials, name), "ids"));
    json_array_foreach(list, i, v) {
        const int64_t id = json_is_integer(v) ? (int64_t)json_integer_value(v) : -1;
        if (id < 0 || id >= tok->vocab.size || !tok->vocab.piece[id].present) {
            rc = sq_fail(SQ_E_FORMAT, "special token '%.64s' of the post-processor has id %" PRId64
                         ", which is not in the vocabulary", name, id);
            goto out;
        }
        SQ_TRY(sq_ids_push(ids, (int32_t)id));
    }
out:
    return rc < 0 ? sq_fail_in(rc, "special token '%.64s'", name) : rc;
}

static int read_template(struct reader *r, const json_t *v)
{
    json_t *single, *specials, *part, *inner;
    const char *name;
    size_t i;
    bool text = false;
    int rc = 0;

    SQ_TRY(sq_json_array(&single, v, "single"));
    SQ_TRY(sq_json_object(&specials, v, "special_tokens"));
    if (r->tok->prefix.n || r->tok->suffix.n) {
        rc = sq_fail(SQ_E_UNSUP, "two templates in the post-processor are not supported");
        goto out;
    }
    json_array_foreach(single, i, part) {
        if ((inner = json_object_get(part, "SpecialToken"))) {
            SQ_TRY(sq_json_str(&name, inner, "id"));
            SQ_TRY(push_special(text ? &r->tok->suffix : &r->tok->prefix, r->tok, specials, name));
            continue;
        }
        SQ_TRY(sq_json_object(&inner, part, "Sequence"));
        SQ_TRY(sq_json_str(&name, inner, "id"));
        if (strcmp(name, "A") != 0 || text) {
            rc = sq_fail(SQ_E_FORMAT, "the post-processor's template for one text is not one text");
            goto out;
        }
        text = true;
    }
    if (!text)
        rc = sq_fail(SQ_E_FORMAT, "the post-processor's template has no place for the text");
out:
    return rc;
}

static int read_post(struct reader *r, const json_t *v, int depth)
{
    const char *type;
    json_t *list;
    const json_t *part;
    size_t i;
    int rc = 0;

    if (!v || json_is_null(v))
        return 0;
    SQ_TRY(sq_json_str(&type, v, "type"));
    if (strcmp(type, "Sequence") == 0 && depth < SQ_STEPS_MAX) {
        SQ_TRY(sq_json_array(&list, v, "processors"));
        json_array_foreach(list, i, part)
            SQ_TRY(read_post(r, part, depth + 1));
    } else if (strcmp(type, "TemplateProcessing") == 0) {
        rc = read_template(r, v);
    } else if (strcmp(type, "ByteLevel") != 0) {
        rc = sq_fail(SQ_E_UNSUP, "post-processor '%.64s' is not supported", type);
    }
out:
    return rc;
}

/* The id of config[key], a string or an object with "content"; -1 when it is absent or no token. */
static int32_t config_id(const struct sq_tok *tok, const json_t *config, const char *key)
{
    const json_t *v = json_object_get(config, key);
    if (json_is_object(v))
        v = json_object_get(v, "content");
    return json_is_string(v) ? sq_vocab_get(&tok->vocab, json_string_value(v), json_string_length(v)) : -1;
}

static int read_config(struct sq_tok *tok, const json_t *config)
{
    bool bos = false, eos = false;
    const int32_t first = config_id(tok, config, "bos_token");
    int rc = 0;

    tok->eos = config_id(tok, config, "eos_token");
    SQ_TRY(sq_json_bool_opt(&bos, config, "add_bos_token"));
    SQ_TRY(sq_json_bool_opt(&eos, config, "add_eos_token"));
    if (tok->prefix.n || tok->suffix.n)
        goto out;
    if ((bos && first < 0) || (eos && tok->eos < 0)) {
        rc = sq_fail(SQ_E_FORMAT, "tokenizer_config.json: %s is true but the token is not in the vocabulary",
                     bos && first < 0 ? "add_bos_token" : "add_eos_token");
        goto out;
    }
    if (bos)
        SQ_TRY(sq_ids_push(&tok->prefix, first));
    if (eos)
        SQ_TRY(sq_ids_push(&tok->suffix, tok->eos));
out:
    return rc;
}

static int read_all(struct reader *r, const json_t *root, const json_t *config)
{
    json_t *model, *added = json_object_get(root, "added_tokens");
    int rc = 0;

    SQ_TRY(sq_json_object(&model, root, "model"));
    if (added && !json_is_null(added))
        SQ_TRY(sq_json_array(&added, root, "added_tokens"));
    r->model = model;
    r->added = added;
    SQ_TRY(check_model(r));
    SQ_TRY(read_vocab(r));
    SQ_TRY(read_merges(r));
    SQ_TRY(read_added(r));
    SQ_TRY(read_unk(r));
    SQ_TRY(read_normalizer(r, json_object_get(root, "normalizer"), 0));
    SQ_TRY(read_pre(r, json_object_get(root, "pre_tokenizer"), 0));
    SQ_TRY(read_post(r, json_object_get(root, "post_processor"), 0));
    if (config)
        SQ_TRY(read_config(r->tok, config));
    SQ_TRY(sq_tok_seal(r->tok));
out:
    return rc;
}

int sq_tok_from_json(struct sq_tok **out, const char *json, size_t n, const char *config, size_t config_n)
{
    struct reader r = {.tok = NULL};
    json_t *root = NULL, *cfg = NULL;
    char *copy = NULL;
    int rc = 0;

    *out = NULL;
    if (n > SQ_TEXT_MAX) {
        rc = sq_fail(SQ_E_FORMAT, "tokenizer.json has %zu bytes, more than %d", n, SQ_TEXT_MAX);
        goto out;
    }
    SQ_TRY(hide_nul(&copy, json, n));
    r.nul = copy != NULL;
    SQ_TRY(sq_json_parse(&root, copy ? copy : json, n, "tokenizer.json"));
    if (config)
        SQ_TRY(sq_json_parse(&cfg, config, config_n, "tokenizer_config.json"));
    SQ_TRY(sq_tok_new(&r.tok));
    rc = read_all(&r, root, cfg);
    if (rc < 0) {
        sq_fail_in(rc, "tokenizer.json");
        goto out;
    }
    *out = r.tok;
    r.tok = NULL;
out:
    sq_tok_free(&r.tok);
    sq_free(r.text[0].p);
    sq_free(r.text[1].p);
    sq_free(copy);
    json_decref(cfg);
    json_decref(root);
    return rc;
}
