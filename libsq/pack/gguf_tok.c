/* The tokenizer in the form that llama.cpp reads. From tokenizer.json there are two kinds: byte-level BPE (model "gpt2":
 * texts in the byte alphabet, merges, the name of a pre-tokenizer) and BPE with byte fallback, which came from
 * SentencePiece (model "llama": texts with scores). */
#include "gguf_tok.h"

#include <string.h>

#include "gguf_vocab.h"
#include "sq/json.h"
#include "sq/tok.h"

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

/* Whether a text begins with the bos token: what our own tokenizer of the same files does. */
static int adds_bos(bool *out, const struct side_files *side, int64_t bos)
{
    const struct sq_side *json = side_find(side, "tokenizer.json"), *config = side_find(side, "tokenizer_config.json");
    struct sq_tok *tok = NULL;
    const int rc = sq_tok_from_json(&tok, json->data, json->size, config ? config->data : NULL,
                                    config ? config->size : 0);
    if (rc < 0)
        return rc;
    *out = bos >= 0 && sq_tok_bos(tok) == bos;
    sq_tok_free(&tok);
    return 0;
}

static int put_specials(struct bytes *kv, const struct side_files *side, const json_t *tokcfg, const struct vocab *v,
                        const json_t *config)
{
    static const char *const names[][2] = {{"bos", "tokenizer.ggml.bos_token_id"},
                                           {"eos", "tokenizer.ggml.eos_token_id"},
                                           {"unk", "tokenizer.ggml.unknown_token_id"},
                                           {"pad", "tokenizer.ggml.padding_token_id"}};
    json_t *map = NULL;
    bool adds = false;
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
    SQ_TRY(adds_bos(&adds, side, bos));
    kv_bool(kv, "tokenizer.ggml.add_bos_token", adds);
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
    const bool bytes_back = json_is_true(json_object_get(model, "byte_fallback"));
    struct vocab v = {.n = vocab};
    json_t *tokcfg = NULL;
    int rc;

    if (!json_is_type(model, "BPE")) {
        const char *type = json_string_value(json_object_get(model, "type"));
        return sq_fail(SQ_E_UNSUP, "tokenizer.json: a %s tokenizer; gguf is written for BPE only", type ? type : "nameless");
    }
    SQ_TRY(side_json(&tokcfg, side, "tokenizer_config.json"));
    SQ_TRY(vocab_fill(&v, tok));
    kv_str(kv, "tokenizer.ggml.model", bytes_back ? "llama" : "gpt2", bytes_back ? 5 : 4);
    if (bytes_back) {
        SQ_TRY(put_scores(kv, &v, tok));
    } else {
        SQ_TRY(put_pre(kv, tok));
        SQ_TRY(put_merges(kv, tok));
    }
    put_tokens(kv, &v);
    SQ_TRY(put_specials(kv, side, tokcfg, &v, config));
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
