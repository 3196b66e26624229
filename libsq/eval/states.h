/* What a pass over a model works with; private to eval. */
#ifndef SQ_EVAL_STATES_H
#define SQ_EVAL_STATES_H

#include "sq/eval.h"

/* Arrays where those of the operations lie; s->x stays the host's, and is brought in pieces where that is not the same. */
struct sq_states_work {
    struct sq_block block, folded; /* the host's; folded only for learning layers */
    struct sq_block there;         /* on a device: what a layer computes with */
    struct sq_trace *trace;
    float *cos, *sin;
    float *x;      /* on a device: a group of windows, then rows in front of the head */
    double *odd;   /* behind the layers: a count */
    int64_t batch; /* windows per group */
    bool folds;
};

static inline bool states_on_device(const struct sq_states *s)
{
    return s->ops != s->ops->host;
}

int64_t states_chunk(int64_t vocab); /* rows of logits at a time */

#endif
