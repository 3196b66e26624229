/* a batch in parts: the gradient of each is computed on its own, here or by a worker, and added in their order
 *
 * So the number of parts decides the bytes, and who computes them does not. */
#ifndef SQ_SHARDS_H
#define SQ_SHARDS_H

#include "sq/window.h"

/* Picks first ... first + n - 1 of a batch; n may be 0. */
struct shard {
    int64_t first, n;
};

static inline struct shard shard_of(int64_t batch, int64_t shards, int64_t i)
{
    const int64_t first = batch * i / shards;
    return (struct shard){.first = first, .n = batch * (i + 1) / shards - first};
}

/* The arrays that a window learns, layer by layer: the first one of {0}, then the next one; NULL behind the last. */
struct learned {
    int64_t k, i;
};

struct sq_param *learned_next(struct learned *at, const struct sq_window_job *job);
int64_t learned_floats(const struct sq_window_job *job);

/* Floats of the workspace `sum` below. */
int64_t shards_floats(const struct sq_window_job *job);
/* The loss of a batch, summed over its tokens, and the gradients of its mean. */
int shards_grad(double *loss, float *sum, struct sq_trainer *t, const struct sq_window_job *job, int64_t step,
                const int64_t *pick, int64_t n) SQ_MUSTUSE;

/* ---- train.c ---- */

/* *here = the members where operations reach them: themselves, or, on a device, copies as they are now. */
int train_bring(const struct sq_member **here, struct sq_trainer *t, const struct sq_member *m, int64_t n) SQ_MUSTUSE;
/* What training needs beyond what evaluating does: gradients, moments, what layers keep for their backward. A fresh optimizer. */
int train_init(struct sq_trainer *t, const struct sq_window_job *job) SQ_MUSTUSE;

/* The parameters into the layers: once a step, before its parts. A signal ends it, and what is not folded must not be used. */
int train_fold(struct sq_trainer *t, const struct sq_window_job *job) SQ_MUSTUSE;
/* n picks of a batch: their loss, summed over their tokens, and what they give to the gradients of the batch's mean; NaN where
 * these are not finite. Looks for a signal now and then: a step of a large model takes minutes. */
int train_part(double *loss, struct sq_trainer *t, const struct sq_window_job *job, const int64_t *pick, int64_t n,
               int64_t batch) SQ_MUSTUSE;
/* whose arrays those of the parameters are */
const struct sq_ops *train_ops(const struct sq_trainer *t);

#endif
