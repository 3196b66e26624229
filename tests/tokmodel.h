/* A tokenizer.json made in tests: GPT-2's alphabet as ids 0..255, then one token for each merge. Include after cmocka.h. */
#ifndef TOKMODEL_H
#define TOKMODEL_H

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "sq/tok.h"

static inline void tok_letter(char out[3], int byte)
{
    const bool self = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    int c = byte;
    if (!self) {
        c = 0x100;
        for (int b = 0; b < byte; b++)
            c += !((b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae);
    }
    memset(out, 0, 3);
    if (c < 0x80) {
        out[0] = (char)c;
    } else {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
    }
}

/* merges: "a b" each, n of them; arrays: written as ["a", "b"]. The pre-tokenizer is ByteLevel. */
static inline json_t *tok_model(const char *const *merges, int n, bool arrays)
{
    json_t *vocab = json_object(), *list = json_array();
    for (int b = 0; b < 256; b++) {
        char s[3];
        tok_letter(s, b);
        json_object_set_new(vocab, s, json_integer(b));
    }
    for (int i = 0; i < n; i++) {
        char both[64];
        const char *gap = strchr(merges[i], ' ');
        const int left = (int)(gap - merges[i]);
        snprintf(both, sizeof both, "%.*s%s", left, merges[i], gap + 1);
        if (!json_object_get(vocab, both))
            json_object_set_new(vocab, both, json_integer((json_int_t)json_object_size(vocab)));
        json_array_append_new(list, arrays ? json_pack("[s%, s]", merges[i], (size_t)left, gap + 1) : json_string(merges[i]));
    }
    json_t *root = json_pack("{s:s, s:[], s:n, s:{s:s, s:b, s:b}, s:n, s:{s:s, s:o, s:o}}", "version", "1.0", "added_tokens",
                             "normalizer", "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 1,
                             "post_processor", "model", "type", "BPE", "vocab", vocab, "merges", list);
    assert_non_null(root);
    return root;
}

/* steals root */
static inline int tok_load(struct sq_tok **tok, json_t *root, const char *config)
{
    char *text = json_dumps(root, JSON_COMPACT);
    assert_non_null(text);
    const int rc = sq_tok_from_json(tok, text, strlen(text), config, config ? strlen(config) : 0);
    free(text);
    json_decref(root);
    return rc;
}
#endif
