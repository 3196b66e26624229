/* A BPE with byte fallback was made from a SentencePiece model, and readers want it back: there, any two neighbours whose
 * texts together are a token may merge, the token with the best score first. That is the same as a list of merges if,
 * and only if, the list has every cut of a token into two tokens, and all cuts of a token stand together: then the
 * score is minus the place of the token's first merge. */
#include <stdio.h>
#include <string.h>

#include "gguf_vocab.h"
#include "sq/json.h"

#define META "\xe2\x96\x81" /* stands for a space */

enum { TOKEN_BYTES = 512 };

/* Both parts of a merge as one text; false when they are no pair or too long. */
static bool joined(char out[2 * TOKEN_BYTES], const json_t *merge)
{
    const char *a = json_string_value(json_array_get(merge, 0)), *b = json_string_value(json_array_get(merge, 1));
    const char *s = json_string_value(merge), *gap = s ? strchr(s, ' ') : NULL;
    const size_t na = gap ? (size_t)(gap - s) : a ? strlen(a) : 0;
    if (gap) {
        a = s;
        b = gap + 1;
    }
    if (!a || !b || na >= TOKEN_BYTES || strlen(b) >= TOKEN_BYTES)
        return false;
    memcpy(out, a, na);
    strcpy(out + na, b);
    return true;
}

/* score[id] = - place of the first merge that makes the token; 0 for those that none makes. */
static int rank_tokens(float *score, const json_t *merges, const json_t *ids, int64_t n)
{
    char text[2 * TOKEN_BYTES];
    const json_t *m;
    float last = 0;
    size_t i;

    json_array_foreach(merges, i, m) {
        const json_t *id = joined(text, m) ? json_object_get(ids, text) : NULL;
        const int64_t t = json_is_integer(id) ? (int64_t)json_integer_value(id) : -1;
        if (t < 0 || t >= n)
            return sq_fail(SQ_E_FORMAT, "tokenizer.json: merge %zu makes no token of the vocabulary", i);
        if (score[t] == 0)
            score[t] = -1 - (float)i;
        if (score[t] > last)
            return sq_fail(SQ_E_UNSUP, "tokenizer.json: the merges of token '%.60s' do not stand together, so no score of "
                           "gguf's kind means the same", text);
        last = score[t];
    }
    return 0;
}

/* How many ways there are to cut a token into two tokens. */
static int64_t count_cuts(const char *text, size_t len, const json_t *ids)
{
    char left[TOKEN_BYTES];
    int64_t n = 0;
    for (size_t i = 1; i < len && len < TOKEN_BYTES; i++) {
        if (((uint8_t)text[i] & 0xc0) == 0x80)
            continue; /* inside a character */
        memcpy(left, text, i);
        left[i] = '\0';
        n += json_object_get(ids, left) && json_object_get(ids, text + i);
    }
    return n;
}

static bool is_byte(const char *text, size_t len)
{
    return len == 6 && memcmp(text, "<0x", 3) == 0 && strspn(text + 3, "0123456789ABCDEF") == 2 && text[5] == '>';
}

/* Prepend and Replace normalizers, or a Metaspace pre-tokenizer: *prefix says whether a space is put in front. */
static int space_rule(bool *prefix, const json_t *tok)
{
    const json_t *norm = json_object_get(tok, "normalizer"), *list = json_object_get(norm, "normalizers");
    const json_t *pre = json_object_get(tok, "pre_tokenizer"), *step;
    bool spaces = false;
    size_t i;

    *prefix = false;
    json_array_foreach(list, i, step) {
        const char *to = json_string_value(json_object_get(step, json_is_type(step, "Prepend") ? "prepend" : "content"));
        const char *from = json_string_value(json_object_get(json_object_get(step, "pattern"), "String"));
        if (!to || strcmp(to, META) != 0 || (!json_is_type(step, "Prepend") && (!from || strcmp(from, " ") != 0)))
            return sq_fail(SQ_E_UNSUP, "tokenizer.json: a normalizer that gguf readers do not have");
        *prefix |= json_is_type(step, "Prepend");
        spaces |= !json_is_type(step, "Prepend");
    }
    if (!list && json_is_type(norm, "Replace"))
        return sq_fail(SQ_E_UNSUP, "tokenizer.json: a normalizer that gguf readers do not have");
    if (!json_is_type(pre, "Metaspace"))
        return spaces && !json_is_object(pre)
                   ? 0
                   : sq_fail(SQ_E_UNSUP, "tokenizer.json: spaces are treated in a way that gguf readers do not have");
    const char *scheme = json_string_value(json_object_get(pre, "prepend_scheme"));
    if (spaces || json_is_true(json_object_get(pre, "split")))
        return sq_fail(SQ_E_UNSUP, "tokenizer.json: spaces are treated in a way that gguf readers do not have");
    *prefix = scheme ? strcmp(scheme, "never") != 0 : json_object_get(pre, "add_prefix_space") == NULL ||
                                                          json_is_true(json_object_get(pre, "add_prefix_space"));
    return 0;
}

int put_scores(struct bytes *kv, struct vocab *v, const json_t *tok)
{
    const json_t *model = json_object_get(tok, "model"), *ids = json_object_get(model, "vocab");
    const char *unk = json_string_value(json_object_get(model, "unk_token"));
    json_t *merges = NULL;
    float *score = NULL;
    bool prefix = false;
    int64_t cuts = 0;
    int rc;

    SQ_TRY(space_rule(&prefix, tok));
    SQ_TRY(sq_json_array(&merges, model, "merges"));
    SQ_TRY(sq_alloc(&score, v->n));
    SQ_TRY(rank_tokens(score, merges, ids, v->n));
    for (int64_t i = 0; i < v->n; i++) {
        if (!v->text[i])
            continue;
        if (v->type[i] == TOKEN_NORMAL)
            cuts += count_cuts(v->text[i], v->len[i], ids);
        if (is_byte(v->text[i], v->len[i]))
            v->type[i] = TOKEN_BYTE;
        if (unk && strcmp(v->text[i], unk) == 0)
            v->type[i] = TOKEN_UNKNOWN;
    }
    if (cuts != (int64_t)json_array_size(merges)) {
        rc = sq_fail(SQ_E_UNSUP, "tokenizer.json: %zu merges where tokens can be cut in %" PRId64 " ways: this BPE is no "
                     "SentencePiece model, which gguf would make of it", json_array_size(merges), cuts);
        goto out;
    }
    kv_array(kv, "tokenizer.ggml.scores", GGUF_F32, v->n);
    bytes_add(kv, score, (size_t)v->n * sizeof *score);
    kv_bool(kv, "tokenizer.ggml.add_space_prefix", prefix);
    rc = kv->rc;
out:
    sq_free(score);
    return rc;
}
