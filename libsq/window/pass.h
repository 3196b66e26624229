/* one run of the engine over a stream; passes.c chains several, estimate.c looks into its beginning */
#ifndef SQ_PASS_H
#define SQ_PASS_H

#include "cursor.h"
#include "folder.h"
#include "sq/engine.h"
#include "sq/layer.h"
#include "workers.h"

/* A layer inside the engine. */
struct held {
    struct sq_layer layer;
    struct sq_block w;
    struct sq_params p;
    bool quantized; /* it has a scheme: Xq goes through its rounded form */
    bool changed;   /* parameters or scheme are not those of its tensors any more */
};

/* What the passes of a process share: the work folder, and what they have done, for progress and the last line. */
struct tally {
    struct folder *folder;      /* NULL: windows are not kept */
    struct sq_workers *workers; /* NULL: this process computes alone */
    double done, total;    /* steps times layers; without restored windows */
    int64_t windows, restored, retries, fallbacks;
};

struct pass {
    const struct sq_plan *plan;
    struct sq_app *app;
    struct tally *tally;
    struct sq_stream *in, *out; /* out may be NULL: nothing is written */
    const double *rate;         /* the stages that every window gets in this pass */
    int nrate;

    struct sq_config cfg;
    bool have_model;
    json_t *model, *tokens; /* heads of these records, for job files */
    struct sq_window job;   /* the only window of this stream, if it is a job */
    bool is_job;
    const struct sq_ops *ops;
    struct sq_schedule schedule;
    bool *chosen;        /* [schedule.n] */
    int64_t first, stop; /* chosen windows lie in [first, stop) */
    struct sq_trainer *trainer;
    struct acts acts;
    double *weight;      /* [samples, tokens] of the loss */
    int64_t weight_at;   /* the xf_at that they belong to */
    struct sq_hash seen; /* tokens and layers written so far: the cursor's digest */

    struct held *held; /* layers [xq_at, read) at index % cap */
    int64_t cap, xq_at, xf_at, read;
    struct sq_record rec;
    bool pending; /* rec was read and not used */
    struct cursor offer;
    bool waiting; /* an announced cursor is going to be used */
    bool measured, recompute; /* memory was looked at; what it demands */
    int64_t room;             /* bytes that were free where the operations' arrays lie, before any was */
    json_t *made;             /* with a work folder: what the layers at hand are made of */
    bool all_kept;            /* every window is in the folder: nobody looks at activations */
};

int pass_init(struct pass *e, const struct sq_plan *plan, struct sq_app *app, struct tally *tally,
              struct sq_stream *in, struct sq_stream *out, const double *rate, int nrate) SQ_MUSTUSE;
void pass_release(struct pass *e);
/* From begin to the first layer's record, which is pending then. */
int pass_prelude(struct pass *e) SQ_MUSTUSE;
int pass_run(struct pass *e) SQ_MUSTUSE;
/* the current record, as it is */
int pass_on(struct pass *e) SQ_MUSTUSE;
/* the rate of layers that windows have left: that of the pass's last stage */
double pass_rate_behind(const struct pass *e);
/* Layers of the largest chosen window. */
int64_t pass_widest(const struct pass *e);
int64_t pass_part(const struct pass *e); /* samples of the largest part of a batch, which a step holds at a time */
void pass_held_release(struct held *h);

/* Xq to the front of layer n; layers left behind are written. */
int pass_advance(struct pass *e, int64_t n) SQ_MUSTUSE;
/* Xf to the front of layer n; covered layers get their parameters. */
int pass_advance_float(struct pass *e, int64_t n) SQ_MUSTUSE;
struct held *pass_held(struct pass *e, int64_t layer);
/* What training window k at a rate takes, without an order; members has room for its layers. */
struct sq_window_job pass_training(struct pass *e, int64_t k, double rate, struct sq_member *members);
int64_t pass_picks(const struct pass *e);

/* Window k through all stages of the pass: learns or restores, reports, writes window records. */
int pass_learn(struct pass *e, int64_t k) SQ_MUSTUSE;
/* Is every window of the pass in the work folder? */
bool pass_is_kept(const struct pass *e);

/* ---- memory.c: what the widest window takes, as the passes allocate it ---- */

int64_t pass_spill_bytes(const struct pass *e); /* Xf and Xq */
int64_t pass_memory(const struct pass *e, const struct held *like, int64_t widest, bool recompute);
/* The same on a device; 0 where none computes. */
int64_t pass_device_memory(const struct pass *e, const struct held *like, int64_t widest, int64_t part, bool recompute);
/* Whether windows have to be recomputed for --memory, or to fit a device; SQ_E_ARG, SQ_E_NOMEM when that does not help. A layer
 * must be held. */
int pass_choose_memory(struct pass *e) SQ_MUSTUSE;

/* ---- jobs.c: windows as streams of their own ---- */

/* The current record, if it is a job's: which window this stream is, and that it is this plan's. */
int pass_take_job(struct pass *e) SQ_MUSTUSE;

/* ---- pass_layers.c: layers in and out of the engine ---- */

/* The next record is layer index's, or what lies before it is passed on; not merged, complete. */
int pass_read_layer(struct pass *e, struct sq_layer *l, int64_t index) SQ_MUSTUSE;
/* to the output and to the digest of what was seen */
int pass_write_layer(struct pass *e, const struct sq_layer *l);
/* *s = the scheme that a layer came with, which must be the plan's but for the rate */
int pass_check_scheme(struct sq_scheme *s, const struct pass *e, const struct sq_layer *l) SQ_MUSTUSE;
/* layers up to and including index into the engine */
int pass_need(struct pass *e, int64_t index) SQ_MUSTUSE;
/* Layer index, the first one in the engine, leaves it. last: no window of the whole schedule comes back to it, so at
 * rate 1 it is final. */
int pass_emit(struct pass *e, int64_t index, bool last) SQ_MUSTUSE;

#endif
