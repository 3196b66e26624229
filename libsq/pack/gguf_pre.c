/* Readers hold the regular expressions of pre-tokenizers themselves, under names. A pattern without a name there is
 * refused: a near one would cut texts differently and nobody would notice. */
#include <string.h>

#include "gguf_vocab.h"

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

/* One step of the pre-tokenizer; false for one that is not known. */
static bool pre_step(const json_t *step, const char **pattern, bool *digits, bool *regex)
{
    if (json_is_type(step, "ByteLevel")) {
        *regex = json_object_get(step, "use_regex") ? json_is_true(json_object_get(step, "use_regex")) : true;
        return !json_is_true(json_object_get(step, "add_prefix_space"));
    }
    if (json_is_type(step, "Digits")) {
        *digits = json_is_true(json_object_get(step, "individual_digits"));
        return *digits;
    }
    const char *how = json_string_value(json_object_get(step, "behavior"));
    *pattern = json_string_value(json_object_get(json_object_get(step, "pattern"), "Regex"));
    return json_is_type(step, "Split") && *pattern && how && strcmp(how, "Isolated") == 0 &&
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

int put_pre(struct bytes *kv, const json_t *tok)
{
    const bool ignores = json_is_true(json_object_get(json_object_get(tok, "model"), "ignore_merges"));
    const char *name = NULL;
    const int rc = pre_name(&name, tok);
    if (rc < 0)
        return rc;
    kv_str(kv, "tokenizer.ggml.pre", name, strlen(name));
    if (ignores != (strcmp(name, "llama-bpe") == 0))
        sq_log(SQ_WARNING, "tokenizer.json %s whole words before merges, gguf readers of '%s' do %s: rare words may differ",
               ignores ? "takes" : "does not take", name, ignores ? "not" : "it");
    return kv->rc;
}
