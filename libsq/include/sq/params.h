/* sq/params.h - learnable parameters of a layer and the fold that absorbs them (docs/method.md 3, 7)
 *
 * One fold serves training, advancing and merging: fold = channel scaling, + B A / r, then rounding. */
#ifndef SQ_PARAMS_H
#define SQ_PARAMS_H

#include "sq/block.h"
#include "sq/scheme.h"

SQ_BEGIN_DECLS

/* Where channels are scaled: the table of docs/method.md 3. */
enum sq_place { SQ_AT_QKV, SQ_AT_FC1, SQ_AT_OUT, SQ_AT_FC2, SQ_AT_QK, SQ_PLACES };
/* On the command line: --learn cs and --lr-alpha; lora and --lr-lora; lwc and --lr-clip. */
enum sq_param_kind { SQ_P_ALPHA, SQ_P_LORA, SQ_P_CLIP, SQ_P_KINDS };

/* One learnable array with its gradient and optimizer moments (grad, m, v NULL until sq_params_train). */
struct sq_param {
    char name[SQ_NAME_MAX]; /* as in sq/layer.h */
    enum sq_param_kind kind;
    int ndim;
    int64_t dim[2], n;
    float *x, *grad, *m, *v;
};

/* All of a layer's; the pointers into param are NULL where a parameter does not exist. */
struct sq_params {
    struct sq_param *param;
    int64_t nparam;
    int64_t nlinear;
    struct sq_param **a, **b, **u, **l; /* [nlinear]: lora_A [r,K], lora_B [R,r], u, l [R,G] */
    struct sq_param *alpha[SQ_PLACES];
    int64_t rank;
    const struct sq_ops *home; /* the device that holds the arrays, and folds; NULL: the process's memory. Never a
                                * processor's table */
    /* private: the allocations behind the arrays, and workspace of the fold */
    float *values, *moments, *scales, *partial, *strip;
    float *share; /* [1] 1 / rank, behind scales */
    double *sums;
    struct fold_maps *maps; /* on a device */
    int64_t rows_max, cols_max;
    int threads; /* that strip is for */
};

/* What to create, with the starting values of docs/method.md 3. A is keyed by (seed, layer, linear). */
struct sq_params_spec {
    bool lora, clip, scaling;
    int64_t rank;
    double clip_start; /* u, l start here (4 by default) */
    int64_t seed;
};

int sq_params_new(struct sq_params *p, const struct sq_config *cfg, const struct sq_scheme *s,
                  const struct sq_params_spec *spec, int64_t layer) SQ_MUSTUSE;
/* From the learnable tensors of a layer, shapes checked; a layer without any gives an empty set. */
int sq_params_load(struct sq_params *p, const struct sq_config *cfg, const struct sq_scheme *s,
                   const struct sq_layer *l) SQ_MUSTUSE;
/* Put them into the layer as tensors, replacing older ones. */
int sq_params_store(struct sq_layer *l, const struct sq_params *p, const struct sq_config *cfg) SQ_MUSTUSE;
void sq_params_release(struct sq_params *p);
/* The same set on a device, with the values that `from` has now. get: the values that it has there, to the host's set. */
int sq_params_mirror(struct sq_params *p, const struct sq_params *from, const struct sq_config *cfg,
                     const struct sq_ops *device) SQ_MUSTUSE;
int sq_params_get(struct sq_params *host, const struct sq_params *p) SQ_MUSTUSE;
/* Allocate (first call) and zero gradients and moments: a fresh optimizer. */
int sq_params_train(struct sq_params *p) SQ_MUSTUSE;
/* floats of all its arrays together */
int64_t sq_params_floats(const struct sq_params *p);
/* what a set takes that is trained: values, gradients, moments, workspace */
int64_t sq_params_bytes(const struct sq_params *p);
/* of its mirror, on the device */
int64_t sq_params_device_bytes(const struct sq_params *p, const struct sq_config *cfg);
/* |alpha| >= 1e-2, sign kept, 0 counts as +: before every forward. */
void sq_params_project(struct sq_params *p, const struct sq_ops *ops);
/* Starting clip factors that minimise the rounding error of each row or group, weighted by the input
 * channel's mean square (stats) or unweighted (NULL): --init act, mse. Writes u, l = logit(factor), at
 * most 8. w is the float layer, as it is before anything was learned; linears without u, l are left out.
 * Symmetric grids get u = l. p and w lie where the operations' arrays do, stats in the process's memory. */
int sq_params_search(struct sq_params *p, const struct sq_ops *ops, const struct sq_block *w,
                     const struct sq_scheme *s, const struct sq_input_stats *stats) SQ_MUSTUSE;

/* to: the layer with everything absorbed (docs/method.md 7), and, with a scheme, every linear weight on its grid at the
 * scheme's rate. p may be empty ({0} only where `to` is f32); to == w allowed in f32. One fold per params at a time:
 * they hold its workspace. */
void sq_fold(struct sq_block *to, const struct sq_block *w, const struct sq_params *p, const struct sq_scheme *s,
             const struct sq_ops *ops);
/* Gradients of all parameters (overwritten) from those of the folded layer, which come linear by linear in any
 * order, each once, its rows in strips (struct sq_grads); dw is used up as workspace. w original, p after
 * sq_params_train; flat what sq_fold made of them, as p is now: a device reads its extremes, a processor nothing.
 * Sums run in an order that does not depend on the number of threads.
 * begin: sets those of g's gain and router that no parameter needs to NULL. */
void sq_fold_grad_begin(struct sq_params *p, struct sq_grads *g, const struct sq_config *c);
void sq_fold_grad_rows(struct sq_params *p, int64_t linear, int64_t first, int64_t last, float *dw, const float *dbias,
                       const struct sq_block *w, const struct sq_block *flat, const struct sq_scheme *s,
                       const struct sq_ops *ops);
/* Channels that the scheme's rate leaves as they are have no gradient but the low-rank part's, where scales are not learned,
 * and that needs no dW: dA = (dy B)' x / rank, dB = dy' (x A') / rank. columns: of how many of a linear's dW is needed. rest: adds the others'
 * part, behind sq_fold_grad_rows of all rows (struct sq_grads says what it gets). */
int64_t sq_fold_grad_columns(const struct sq_params *p, int64_t linear, const struct sq_block *w, const struct sq_scheme *s);
void sq_fold_grad_rest(struct sq_params *p, int64_t linear, struct sq_mat dy, struct sq_mat x, int64_t n, float *space,
                       const struct sq_block *w, const struct sq_scheme *s, const struct sq_ops *ops);
void sq_fold_grad_end(struct sq_params *p, const struct sq_grads *g, const struct sq_block *w);

/* Merge: a float or learning layer becomes a merged one: codes, scales (rounded to scale_type SQ_F16 or
 * SQ_F32 before the codes), zeros; gains and biases f32. Linears of a W16 scheme stay f32 weights. Nothing
 * but the scheme is needed downstream. SQ_E_VALUE on NaN/Inf. */
int sq_layer_merge(struct sq_layer *l, const struct sq_config *cfg, enum sq_dtype scale_type,
                   const struct sq_ops *ops) SQ_MUSTUSE;

SQ_END_DECLS
#endif
