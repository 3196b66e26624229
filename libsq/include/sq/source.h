/* sq/source.h - a model read once from front to back, whatever holds it: a Hugging Face directory, a
 * GGUF file, or a model stream (a file, "-", "fd:N")
 *
 *   sq_source_open      config, original config.json and side files are there
 *   sq_source_top       ... the embedding, until it returns 0
 *   sq_source_layer     layers 0 .. L-1, until it returns 0
 *   sq_source_top       ... final norm and head, until it returns 0: the model is complete
 *
 * Tensors of checkpoints are views into a mapping where the file holds what is wanted, and are
 * dequantized to owned f32 where it does not (quantized GGUF types); tensors of streams are owned. Views
 * stay valid until the source is closed; their pages leave memory when the next tensor or layer is asked
 * for. */
#ifndef SQ_SOURCE_H
#define SQ_SOURCE_H

#include <jansson.h>

#include "sq/config.h"
#include "sq/layer.h"
#include "sq/tensor.h"

SQ_BEGIN_DECLS

struct sq_source;

/* A file beside the weights: tokenizer.json, chat_template.jinja, ... */
struct sq_side {
    char name[64];
    const void *data; /* the source's */
    size_t size;
};

/* spec: a directory, PATH of a .gguf or stream file, "-", "fd:N". A checkpoint is checked completely
 * before a tensor is given out: config, every tensor's presence and shape, no tensor that the model has
 * no use for. Pickle files (.bin, .pt, .pth, .ckpt) are refused: they are programs. Errors name file and
 * tensor. */
int sq_source_open(struct sq_source **out, const char *spec) SQ_MUSTUSE;
void sq_source_close(struct sq_source **s);

const struct sq_config *sq_source_config(const struct sq_source *s);
/* config.json as it was found; for GGUF files one made from their keys. Borrowed. */
const json_t *sq_source_original(const struct sq_source *s);
/* [{"name", "dtype", "shape"}, ...] of every tensor in the order of delivery. Borrowed. */
const json_t *sq_source_manifest(const struct sq_source *s);
/* Bytes of all tensors of the manifest. */
int64_t sq_source_bytes(const struct sq_source *s);

int64_t sq_source_files(const struct sq_source *s);
const struct sq_side *sq_source_file(const struct sq_source *s, int64_t i);
const struct sq_side *sq_source_find_file(const struct sq_source *s, const char *name); /* NULL: none */

/* The next tensor that belongs to no layer: 1, 0 when a layer or the end comes next, < 0. Checkpoints
 * and float streams give SQ_EMBED_NAME first; at the end SQ_FINAL_NORM_NAME, and SQ_HEAD_NAME unless the
 * head is tied to the embedding. Merged streams may hold other names in their place. t is overwritten
 * (released first). */
int sq_source_top(struct sq_source *s, struct sq_tensor *t) SQ_MUSTUSE;
/* "embedding", "norm", "head" for the names above, else NULL: the role of such a tensor in a stream. */
const char *sq_source_role(const char *name);
/* The next layer: 1, 0 after the last one, < 0. l is overwritten (released first). */
int sq_source_layer(struct sq_source *s, struct sq_layer *l) SQ_MUSTUSE;

/* It is a stream, not a checkpoint. */
bool sq_source_is_stream(const struct sq_source *s);
/* Write what a stream begins with after its begin record: the model record and the side files. */
int sq_source_put_head(struct sq_stream *out, const struct sq_source *s);

SQ_END_DECLS
#endif
