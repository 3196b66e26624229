#include "gguf_vocab.h"

#include <stdio.h>
#include <string.h>

#include "sq/json.h"

bool json_is_type(const json_t *obj, const char *type)
{
    const char *t = json_string_value(json_object_get(obj, "type"));
    return t && strcmp(t, type) == 0;
}

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

int vocab_fill(struct vocab *v, const json_t *tok)
{
    const json_t *model = json_object_get(tok, "model");
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

void vocab_release(struct vocab *v)
{
    sq_free(v->type);
    sq_free(v->len);
    sq_free(v->text);
}

int64_t vocab_find(const struct vocab *v, const char *text)
{
    for (int64_t i = 0; i < v->n; i++)
        if (v->text[i] && v->type[i] != TOKEN_NORMAL && strcmp(v->text[i], text) == 0)
            return i;
    for (int64_t i = 0; i < v->n; i++)
        if (v->text[i] && strcmp(v->text[i], text) == 0)
            return i;
    return -1;
}

void put_tokens(struct bytes *kv, const struct vocab *v)
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
int put_merges(struct bytes *kv, const json_t *tok)
{
    const json_t *model = json_object_get(tok, "model");
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
