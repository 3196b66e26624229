/* sq/work.h - where the time goes: a clock that always counts for exactly one kind of work
 *
 * For the thread that drives the work; the threads that it fans out to count for the kind it is in. */
#ifndef SQ_WORK_H
#define SQ_WORK_H

#include "sq/base.h"

SQ_BEGIN_DECLS

enum sq_work {
    SQ_WORK_REST,      /* norms, rotary embedding, SwiGLU, rounding of tokens, losses: all that is not named below */
    SQ_WORK_PRODUCTS,  /* of activations, weights and their gradients */
    SQ_WORK_ATTENTION,
    SQ_WORK_WEIGHTS,   /* folding parameters into weights, rounding them, and the gradients of both */
    SQ_WORK_OPTIMIZER,
    SQ_WORK_STREAM,    /* reading and writing, and waiting for either */
    SQ_WORKS
};

/* From now on time counts for `work`; what it counted for until now is returned, to be given back. */
enum sq_work sq_work_begin(enum sq_work work);
/* Seconds of each kind since the first sq_work_begin of the process. */
void sq_work_seconds(double out[SQ_WORKS]);
const char *sq_work_name(int work);

SQ_END_DECLS
#endif
