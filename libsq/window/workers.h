/* other processes that compute parts of every batch: sq-window --workers; worker.c is their side */
#ifndef SQ_WORKERS_H
#define SQ_WORKERS_H

#include "share.h"
#include "sq/engine.h"

/* Those of the plan, met and found to compute as this process does; NULL where it has none. */
int workers_open(struct sq_workers **out, const struct sq_plan *p, const struct sq_app *app) SQ_MUSTUSE;
/* The end to all of them, and theirs. */
int workers_finish(struct sq_workers **w) SQ_MUSTUSE;
void workers_abort(struct sq_workers **w, int rc);

/* A window to all of them: layers [job->n] as they are, the samples that are learned from. */
int workers_begin(struct sq_workers *w, const struct sq_window_job *job, const struct acts *a, const struct sq_config *cfg,
                  struct sq_layer *const *layers) SQ_MUSTUSE;
/* How many parts of every batch, the first ones, are this process's. */
int64_t workers_leave(const struct sq_workers *w, int64_t shards);
/* Their parts of a batch: all of them begin to compute. */
int workers_send(struct sq_workers *w, const struct sq_window_job *job, const struct sq_ops *ops, int64_t step,
                 const int64_t *pick, int64_t n) SQ_MUSTUSE;
/* Part i, which is a worker's: its gradients into the parameters'. In the order of the parts. */
int workers_receive(double *loss, struct sq_workers *w, const struct sq_window_job *job, int64_t step, int64_t i) SQ_MUSTUSE;

#endif
