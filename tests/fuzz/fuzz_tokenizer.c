/* A tokenizer from hostile bytes, and hostile text through it. Input: 'j' or 'g' (tokenizer.json or GGUF keys), then parts
 * separated by the byte 0xff, which no JSON text holds: the tokenizer, its config (may be empty), a text. */
#include <stdlib.h>
#include <string.h>

#include "sq/tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { TEXT_MAX = 512 }; /* patterns may take long, by intent */

static size_t part(const uint8_t *data, size_t n)
{
    const uint8_t *end = n ? memchr(data, 0xff, n) : NULL;
    return end ? (size_t)(end - data) : n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *text[3] = {NULL, NULL, NULL};
    size_t len[3] = {0, 0, 0};
    struct sq_tok *tok;
    struct sq_ids ids = SQ_IDS_INIT;

    if (n < 2)
        return 0;
    size_t at = 1;
    for (int i = 0; i < 3 && at <= n; i++) {
        text[i] = (const char *)data + at;
        len[i] = i < 2 ? part(data + at, n - at) : SQ_MIN(n - at, (size_t)TEXT_MAX);
        at += len[i] + 1;
    }
    const int rc = data[0] == 'g' ? sq_tok_from_gguf_json(&tok, text[0], len[0])
                                  : sq_tok_from_json(&tok, text[0], len[0], len[1] ? text[1] : NULL, len[1]);
    if (rc < 0)
        return 0;
    if (text[2] && sq_tok_encode(&ids, tok, text[2], len[2], SQ_TOK_RULE) == 0) {
        char *back;
        size_t m;
        for (int64_t i = 0; i < ids.n; i++)
            SQ_ASSERT(sq_tok_spelling(tok, ids.v[i]).p);
        SQ_ASSERT(sq_tok_decode(&back, &m, tok, ids.v, ids.n, false) == 0);
        sq_free(back);
    }
    sq_ids_release(&ids);
    sq_tok_free(&tok);
    return 0;
}
