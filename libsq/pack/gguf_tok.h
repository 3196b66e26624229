/* tokenizer.ggml.* keys from the tokenizer files of a Hugging Face directory, or copied from a GGUF source. */
#ifndef SQ_PACK_GGUF_TOK_H
#define SQ_PACK_GGUF_TOK_H

#include "bytes.h"
#include "sq/source.h"

/* The side files of the model, borrowed. */
struct side_files {
    const struct sq_side *file;
    int64_t n;
};

/* From tokenizer.gguf.json when there is one, else from tokenizer.json, tokenizer_config.json and the ids in config.
 * vocab: rows of the embedding; tokens without a text are filled up as unused. No tokenizer, or one that readers would not
 * cut texts with as its own code does: SQ_E_UNSUP says which. */
int gguf_tokenizer(struct bytes *kv, const struct side_files *side, const json_t *config, int64_t vocab) SQ_MUSTUSE;
/* The same for a file without tokenizer: readers take ids only. */
void gguf_no_tokenizer(struct bytes *kv);

#endif
