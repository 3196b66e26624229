/* What a model's file contains: every tensor, its names and its shape, known from the config alone, so that the size of
 * a header is known before the first tensor comes. */
#ifndef SQ_PACK_PLAN_H
#define SQ_PACK_PLAN_H

#include "sq/config.h"

enum plan_kind {
    PLAN_LINEAR, /* a weight of a layer: merged codes, or floats under a W16 scheme */
    PLAN_TABLE,  /* embedding, head: codes or floats */
    PLAN_VECTOR, /* gains, biases */
};

struct plan_entry {
    char hf[96];   /* name in a checkpoint: "model.layers.3.self_attn.q_proj.weight" */
    char gguf[48]; /* "blk.3.attn_q.weight" */
    const char *local; /* inside the layer: points into hf */
    enum plan_kind kind;
    int64_t layer; /* -1: none */
    int64_t rows, cols;
    bool vector;      /* one dimension of `cols` values; rows is 1 */
    int64_t head_dim; /* > 0: GGUF holds the rows of each head in pairs (i, i + D/2) */
    /* filled while packing */
    bool done;
    int type; /* enum sq_pack_type */
    int64_t offset, bytes;
    int shard;
    uint64_t digest; /* of the values that a reader must get, as float32 */
};

struct plan {
    struct plan_entry *entry; /* room for one more */
    int64_t n;
    int64_t hint; /* where plan_find looks first */
};

int plan_new(struct plan *p, const struct sq_config *cfg) SQ_MUSTUSE;
void plan_release(struct plan *p);
/* By layer and name inside it (layer -1: the whole name), or NULL; quick when asked for in order. */
struct plan_entry *plan_find(struct plan *p, int64_t layer, const char *local);
/* Where row r of a tensor is put in GGUF. */
int64_t plan_gguf_row(const struct plan_entry *e, int64_t r);

#endif
