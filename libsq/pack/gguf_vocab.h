/* The parts of a tokenizer as GGUF keys. */
#ifndef SQ_PACK_GGUF_VOCAB_H
#define SQ_PACK_GGUF_VOCAB_H

#include <jansson.h>

#include "bytes.h"

/* token_type */
enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER, TOKEN_UNUSED, TOKEN_BYTE };

/* Texts and types by id; the texts are borrowed from the parsed tokenizer.json. */
struct vocab {
    const char **text; /* NULL: no token of that id */
    size_t *len;
    int32_t *type;
    int64_t n;
};

bool json_is_type(const json_t *obj, const char *type); /* {"type": type, ...} */

/* Of n rows of the embedding; v->n is set by the caller. */
int vocab_fill(struct vocab *v, const json_t *tok) SQ_MUSTUSE;
void vocab_release(struct vocab *v);
int64_t vocab_find(const struct vocab *v, const char *text); /* an added token before a plain one; -1: none */

/* tokenizer.ggml.tokens and token_type; ids without a text are filled up as unused. */
void put_tokens(struct bytes *kv, const struct vocab *v);
/* tokenizer.ggml.merges */
int put_merges(struct bytes *kv, const json_t *tok) SQ_MUSTUSE;
/* tokenizer.ggml.pre: the name under which readers hold the regular expressions. */
int put_pre(struct bytes *kv, const json_t *tok) SQ_MUSTUSE;
/* tokenizer.ggml.scores, add_space_prefix, and byte and unknown types in v, for a BPE with byte fallback. */
int put_scores(struct bytes *kv, struct vocab *v, const json_t *tok) SQ_MUSTUSE;

#endif
