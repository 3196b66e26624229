/* sq/layer.h - one decoder layer as it travels through a stream: named tensors and a state
 *
 * Tensor names are the checkpoint's without "model.layers.N.": "self_attn.q_proj.weight",
 * "input_layernorm.weight". A learning layer adds "<linear>.lora_A" [r,K], "<linear>.lora_B" [R,r],
 * "<linear>.u" and ".l" [R,G], "alpha.qkv" [C], "alpha.fc1" [C], "alpha.out" [KV*D], "alpha.fc2" [F],
 * "alpha.qk" [KV,D/2] ([D/2] with q/k norm), all f32. Statistics (sq/stats.h) may
 * stand beside them until the merge. A merged layer has, in place of each "<linear>.weight",
 * "<linear>.codes" u8 [R,K] (symmetric: + 2^(b-1)), "<linear>.scales" f16 or f32 [R,G] and
 * "<linear>.zeros" u8 [R,G] (symmetric: 2^(b-1)), weight = scale (code - zero); gains and biases are f32. */
#ifndef SQ_LAYER_H
#define SQ_LAYER_H

#include <jansson.h>

#include "sq/config.h"
#include "sq/stream.h"
#include "sq/tensor.h"

SQ_BEGIN_DECLS

enum sq_state { SQ_FLOAT, SQ_LEARNING, SQ_FINAL, SQ_MERGED };

struct sq_layer {
    int64_t index;
    enum sq_state state;
    json_t *scheme; /* of the layer record, or NULL; read and written with sq/scheme.h */
    struct sq_tensor *tensor;
    int64_t ntensor, cap;
};

#define SQ_LAYER_INIT {.index = -1, .state = SQ_FLOAT, .scheme = NULL, .tensor = NULL, .ntensor = 0, .cap = 0}

const char *sq_state_name(enum sq_state s);
void sq_layer_release(struct sq_layer *l);
/* The tensor of that name, or NULL; borrowed. */
struct sq_tensor *sq_layer_find(const struct sq_layer *l, const char *name);
/* Add t (moved from; t becomes empty). A name that exists already: SQ_E_FORMAT. */
int sq_layer_add(struct sq_layer *l, struct sq_tensor *t) SQ_MUSTUSE;
/* Free and remove a tensor; no-op if absent. */
void sq_layer_drop(struct sq_layer *l, const char *name);

/* Digest over names, dtypes, shapes and bytes of the tensors in their order (schemas/stream.md). */
int sq_layer_digest(uint64_t *out, const struct sq_layer *l) SQ_MUSTUSE;
/* What a tensor of a layer is, from its name: "weight", "bias", "gain", "router", "codes", "scales", "zeros",
 * "lora", "clip", "alpha", "stats", or "other". */
const char *sq_layer_role(const char *name);

/* Layer record, its tensors in order, closing layer record with the digest of all of them. */
int sq_layer_write(struct sq_stream *out, const struct sq_layer *l);
/* rec is a layer record that begins a layer: read its tensors up to the closing record and check the digest.
 * Records of other kinds between them are an error. l is released first and, on failure, empty. */
int sq_layer_read(struct sq_layer *l, struct sq_stream *in, const struct sq_record *rec) SQ_MUSTUSE;
/* Every float tensor that cfg demands is there with the right shape, and no weight or bias that cfg has no
 * place for (states before merged). Names layer and tensor. */
int sq_layer_check(const struct sq_layer *l, const struct sq_config *cfg) SQ_MUSTUSE;

/* ---- the model around the layers: what comes before layer 0 and after layer L-1 ---- */

/* Top-level tensors keep their checkpoint names. */
#define SQ_EMBED_NAME "model.embed_tokens.weight"
#define SQ_FINAL_NORM_NAME "model.norm.weight"
#define SQ_HEAD_NAME "lm_head.weight"

SQ_END_DECLS
#endif
