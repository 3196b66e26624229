/* The two halves of a model in a GGUF file: gguf_model.c has its tensors, gguf_config.c makes its
 * config.json. */
#ifndef SQ_GGUF_MODEL_H
#define SQ_GGUF_MODEL_H

#include "sq/gguf.h"

enum { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_BF16 = 30 }; /* ggml's numbers */

/* An architecture as GGUF and as Hugging Face call it. */
struct sq_gguf_arch {
    const char *arch, *model_type, *name;
    bool permuted; /* rows of q and k: the two of a RoPE pair are neighbours, not half a head apart */
};

/* config.json from the file's keys and what its tensors show; *out is a new reference, also on failure.
 */
int sq_gguf_config(json_t **out, const struct sq_gguf *g, const struct sq_gguf_arch *a);

#endif
