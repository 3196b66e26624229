/* tokenizers as GGUF keys: written, read back as a GGUF file, and cutting texts as the tokenizer they were made from */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../libsq/pack/gguf_tok.h"
#include "sq/gguf.h"
#include "sq/json.h"
#include "sq/tok.h"

static char *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    *n = 0;
    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    const long size = ftell(f);
    rewind(f);
    text = malloc((size_t)size + 1);
    *n = fread(text, 1, (size_t)size, f);
    text[*n] = '\0';
    fclose(f);
    return text;
}

/* The keys as a GGUF file without tensors. */
static void as_file(struct bytes *out, const struct bytes *kv)
{
    bytes_add(out, "GGUF", 4);
    bytes_u32(out, 3);
    bytes_u64(out, 0);
    bytes_u64(out, (uint64_t)kv->pairs);
    bytes_add(out, kv->p, kv->n);
    bytes_pad(out, 32);
    assert_int_equal(out->rc, 0);
}

static int make(json_t **pairs, const char *json, const char *config, const char *model, int64_t vocab)
{
    struct sq_side side[2] = {{.name = "tokenizer.json", .data = json, .size = json ? strlen(json) : 0},
                              {.name = "tokenizer_config.json", .data = config, .size = config ? strlen(config) : 0}};
    const struct side_files files = {.file = side, .n = config ? 2 : json ? 1 : 0};
    struct bytes kv = {0}, file = {0};
    struct sq_gguf *g = NULL;
    json_t *cfg = NULL;

    assert_int_equal(sq_json_parse(&cfg, model, strlen(model), "config.json"), 0);
    int rc = gguf_tokenizer(&kv, &files, cfg, vocab);
    if (rc == 0) {
        as_file(&file, &kv);
        assert_int_equal(sq_gguf_parse(&g, file.p, file.n, "keys"), 0);
        assert_int_equal(sq_gguf_json(pairs, g, "tokenizer."), 0);
        sq_gguf_close(&g);
    }
    bytes_release(&file);
    bytes_release(&kv);
    json_decref(cfg);
    return rc;
}

static void same_ids(const json_t *pairs, const char *json, const char *config, const char *text)
{
    struct sq_tok *a = NULL, *b = NULL;
    struct sq_ids x = SQ_IDS_INIT, y = SQ_IDS_INIT;
    char *keys = json_dumps(pairs, JSON_COMPACT);

    assert_int_equal(sq_tok_from_json(&a, json, strlen(json), config, config ? strlen(config) : 0), 0);
    assert_int_equal(sq_tok_from_gguf_json(&b, keys, strlen(keys)), 0);
    assert_int_equal(sq_tok_encode(&x, a, text, strlen(text), SQ_TOK_RULE), 0);
    assert_int_equal(sq_tok_encode(&y, b, text, strlen(text), SQ_TOK_RULE), 0);
    assert_true(x.n > 0);
    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.v, y.v, (size_t)x.n * sizeof *x.v);
    sq_ids_release(&y);
    sq_ids_release(&x);
    sq_tok_free(&b);
    sq_tok_free(&a);
    free(keys);
}

static const char *text_of(const json_t *pairs, const char *key)
{
    const char *s = json_string_value(json_object_get(pairs, key));
    return s ? s : "";
}

static int64_t number_of(const json_t *pairs, const char *key)
{
    const json_t *v = json_object_get(pairs, key);
    return json_is_integer(v) ? (int64_t)json_integer_value(v) : -1;
}

static void the_tiny_model(void **state)
{
    (void)state;
    size_t n;
    char *json = slurp("examples/tiny/tokenizer.json", &n), *config = slurp("examples/tiny/tokenizer_config.json", &n);
    char *text = slurp("examples/tiny/test.txt", &n);
    json_t *pairs = NULL;

    assert_true(json && config && text);
    assert_int_equal(make(&pairs, json, config, "{}", 2050), 0);
    assert_string_equal(text_of(pairs, "tokenizer.ggml.model"), "gpt2");
    assert_string_equal(text_of(pairs, "tokenizer.ggml.pre"), "gpt-2");
    assert_int_equal(number_of(pairs, "tokenizer.ggml.bos_token_id"), 0);
    assert_int_equal(number_of(pairs, "tokenizer.ggml.eos_token_id"), 1);
    assert_int_equal(number_of(pairs, "tokenizer.ggml.unknown_token_id"), -1);
    assert_true(json_is_true(json_object_get(pairs, "tokenizer.ggml.add_bos_token")));
    const json_t *tokens = json_object_get(pairs, "tokenizer.ggml.tokens");
    const json_t *types = json_object_get(pairs, "tokenizer.ggml.token_type");
    assert_int_equal(json_array_size(tokens), 2050);
    assert_string_equal(json_string_value(json_array_get(tokens, 0)), "<|begin|>");
    assert_string_equal(json_string_value(json_array_get(tokens, 2049)), "[PAD2049]");
    assert_int_equal(json_integer_value(json_array_get(types, 0)), 3);
    assert_int_equal(json_integer_value(json_array_get(types, 2)), 1);
    assert_int_equal(json_integer_value(json_array_get(types, 2049)), 5);
    text[60000] = '\0';
    same_ids(pairs, json, config, text);
    json_decref(pairs);
    free(text);
    free(config);
    free(json);
}

static void shared_tokenizer(const char *path, const char *config, int64_t vocab, const char *model)
{
    size_t n;
    char *json = slurp(path, &n), *text = slurp("examples/tiny/test.txt", &n);
    json_t *pairs = NULL;
    if (!json) {
        print_message("skipped: %s is absent\n", path);
        free(text);
        skip();
    }
    const int rc = make(&pairs, json, config, "{\"bos_token_id\": 1, \"eos_token_id\": [2, 3]}", vocab);
    if (rc < 0)
        print_message("%s\n", sq_errmsg());
    assert_int_equal(rc, 0);
    assert_string_equal(text_of(pairs, "tokenizer.ggml.model"), model);
    text[60000] = '\0';
    same_ids(pairs, json, config, text);
    same_ids(pairs, json, config, " two  spaces\n\n\ttabs 1234567 \xc3\xa9t\xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x8c\x9e it's ");
    json_decref(pairs);
    free(text);
    free(json);
}

static void gpt2(void **state)
{
    (void)state;
    shared_tokenizer("../shared/data/tokenizers/gpt2.tokenizer.json", NULL, 50257, "gpt2");
}

static void llama2_has_scores(void **state)
{
    (void)state;
    shared_tokenizer("../shared/data/tokenizers/llama2.tokenizer.json",
                     "{\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": \"</s>\", \"add_bos_token\": true}", 32008,
                     "llama");
}

/* ---- small tokenizers, written by hand ---- */

#define LLAMA3 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| " \
               "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define QWEN2 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| " \
              "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define SPLIT(p) "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": \"" p "\"}, " \
                 "\"behavior\": \"Isolated\", \"invert\": false}, {\"type\": \"ByteLevel\", \"use_regex\": false, " \
                 "\"add_prefix_space\": false}]}"
#define DIGITS "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": true}, " \
               "{\"type\": \"ByteLevel\", \"use_regex\": true, \"add_prefix_space\": false}]}"

static const char *small(char *buf, size_t size, const char *pre, const char *model)
{
    snprintf(buf, size, "{\"added_tokens\": [{\"id\": 4, \"content\": \"<s>\", \"special\": true}, {\"id\": 5, \"content\": "
             "\"<tool>\", \"special\": false}], \"normalizer\": null, \"pre_tokenizer\": %s, \"post_processor\": null, "
             "\"decoder\": null, \"model\": {\"type\": \"BPE\", %s}}", pre, model);
    return buf;
}

#define ABC "\"vocab\": {\"a\": 0, \"b\": 1, \"c\": 2, \"ab\": 3}, \"merges\": [[\"a\", \"b\"]]"

static void pre_tokenizers_have_names(void **state)
{
    (void)state;
    static const struct {
        const char *pre, *model, *name;
    } rows[] = {
        {SPLIT(LLAMA3), ABC ", \"ignore_merges\": true", "llama-bpe"},
        {SPLIT(QWEN2), ABC, "qwen2"},
        {DIGITS, ABC, "smollm"},
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false}", ABC, "gpt-2"},
    };
    for (int64_t i = 0; i < SQ_COUNT(rows); i++) {
        char json[4096];
        json_t *pairs = NULL;
        const int rc = make(&pairs, small(json, sizeof json, rows[i].pre, rows[i].model), NULL, "{}", 6);
        if (rc < 0)
            print_message("%s\n", sq_errmsg());
        assert_int_equal(rc, 0);
        assert_string_equal(text_of(pairs, "tokenizer.ggml.pre"), rows[i].name);
        assert_string_equal(json_string_value(json_array_get(json_object_get(pairs, "tokenizer.ggml.merges"), 0)), "a b");
        assert_int_equal(json_integer_value(json_array_get(json_object_get(pairs, "tokenizer.ggml.token_type"), 4)), 3);
        assert_int_equal(json_integer_value(json_array_get(json_object_get(pairs, "tokenizer.ggml.token_type"), 5)), 4);
        json_decref(pairs);
    }
}

static void what_readers_do_not_have_is_refused(void **state)
{
    (void)state;
    static const char byte_level[] = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}";
    static const struct {
        const char *pre, *model, *says;
        int rc;
    } rows[] = {
        {SPLIT("[a-z]+"), ABC, "pre-tokenizer '[a-z]+' is none that gguf readers have a name for", SQ_E_UNSUP},
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": true}", ABC, "is none that gguf readers", SQ_E_UNSUP},
        {"{\"type\": \"Whitespace\"}", ABC, "is none that gguf readers", SQ_E_UNSUP},
        {"null", ABC, "is none that gguf readers", SQ_E_UNSUP},
        {byte_level, "\"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []", "share the id 0", SQ_E_FORMAT},
        {byte_level, "\"vocab\": {\"a\": 6}, \"merges\": []", "has the id 6, the model has 6 tokens", SQ_E_FORMAT},
        {byte_level, "\"vocab\": {\"a\": -1}, \"merges\": []", "has the id -1", SQ_E_FORMAT},
        {byte_level, "\"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]", "merge 0 is no pair", SQ_E_FORMAT},
        {byte_level, "\"vocab\": {\"a\": 0}", "'merges' is missing", SQ_E_FORMAT},
        {byte_level, "\"merges\": []", "'vocab' is missing", SQ_E_FORMAT},
        {"null", ABC ", \"byte_fallback\": true", "spaces are treated in a way", SQ_E_UNSUP},
        {"{\"type\": \"Metaspace\", \"split\": false, \"prepend_scheme\": \"first\"}",
         "\"byte_fallback\": true, \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"ba\": 3}, \"merges\": [\"a b\"]",
         "this BPE is no SentencePiece model", SQ_E_UNSUP},
        {"{\"type\": \"Metaspace\", \"split\": false, \"prepend_scheme\": \"first\"}",
         "\"byte_fallback\": true, \"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [\"a b\"]", "merge 0 makes no token",
         SQ_E_FORMAT},
    };
    for (int64_t i = 0; i < SQ_COUNT(rows); i++) {
        char json[4096];
        json_t *pairs = NULL;
        assert_int_equal(make(&pairs, small(json, sizeof json, rows[i].pre, rows[i].model), NULL, "{}", 6), rows[i].rc);
        assert_non_null(strstr(sq_errmsg(), rows[i].says));
    }
    json_t *pairs = NULL;
    assert_int_equal(make(&pairs, NULL, NULL, "{}", 6), SQ_E_UNSUP);
    assert_int_equal(make(&pairs, "{\"model\": {\"type\": \"Unigram\"}}", NULL, "{}", 6), SQ_E_UNSUP);
    assert_non_null(strstr(sq_errmsg(), "a Unigram tokenizer"));
    assert_int_equal(make(&pairs, "[]", NULL, "{}", 6), SQ_E_UNSUP);
    assert_int_equal(make(&pairs, "{", NULL, "{}", 6), SQ_E_FORMAT);
}

static void chat_templates_come_along(void **state)
{
    (void)state;
    char json[4096];
    json_t *pairs = NULL;
    small(json, sizeof json, DIGITS, ABC);
    assert_int_equal(make(&pairs, json, "{\"chat_template\": \"{{ x }}\", \"bos_token\": \"<s>\"}", "{}", 6), 0);
    assert_string_equal(text_of(pairs, "tokenizer.chat_template"), "{{ x }}");
    assert_int_equal(number_of(pairs, "tokenizer.ggml.bos_token_id"), 4);
    assert_true(json_is_false(json_object_get(pairs, "tokenizer.ggml.add_bos_token")));
    json_decref(pairs);
    assert_int_equal(make(&pairs, json, "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"t\"}, {\"name\": "
                          "\"default\", \"template\": \"d\"}], \"bos_token\": \"<s>\", \"add_bos_token\": true}", "{}", 6), 0);
    assert_string_equal(text_of(pairs, "tokenizer.chat_template"), "d");
    assert_true(json_is_true(json_object_get(pairs, "tokenizer.ggml.add_bos_token")));
    json_decref(pairs);
}

static void keys_of_a_gguf_source_are_copied(void **state)
{
    (void)state;
    static const char keys[] = "{\"tokenizer.ggml.model\": \"llama\", \"tokenizer.ggml.tokens\": [\"a\", \"b\"], "
                               "\"tokenizer.ggml.scores\": [0, -1.5], \"tokenizer.ggml.token_type\": [1, 3], "
                               "\"tokenizer.ggml.bos_token_id\": 1, \"tokenizer.ggml.add_bos_token\": true, "
                               "\"tokenizer.chat_template\": \"t\"}";
    const struct sq_side side = {.name = "tokenizer.gguf.json", .data = keys, .size = sizeof keys - 1};
    const struct side_files files = {.file = &side, .n = 1};
    struct bytes kv = {0}, file = {0};
    struct sq_gguf *g = NULL;
    json_t *pairs = NULL, *want = NULL;

    assert_int_equal(gguf_tokenizer(&kv, &files, NULL, 3), SQ_E_FORMAT);
    assert_string_equal(sq_errmsg(), "tokenizer.gguf.json has 2 tokens, the model 3");
    assert_int_equal(gguf_tokenizer(&kv, &files, NULL, 2), 0);
    as_file(&file, &kv);
    assert_int_equal(sq_gguf_parse(&g, file.p, file.n, "keys"), 0);
    assert_int_equal(sq_gguf_json(&pairs, g, "tokenizer."), 0);
    assert_int_equal(sq_json_parse(&want, keys, sizeof keys - 1, "keys"), 0);
    json_array_set_new(json_object_get(want, "tokenizer.ggml.scores"), 0, json_real(0));
    assert_true(json_equal(pairs, want));
    json_decref(want);
    json_decref(pairs);
    sq_gguf_close(&g);
    bytes_release(&file);
    bytes_release(&kv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tiny_model),
        cmocka_unit_test(gpt2),
        cmocka_unit_test(llama2_has_scores),
        cmocka_unit_test(pre_tokenizers_have_names),
        cmocka_unit_test(what_readers_do_not_have_is_refused),
        cmocka_unit_test(chat_templates_come_along),
        cmocka_unit_test(keys_of_a_gguf_source_are_copied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
