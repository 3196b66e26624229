/* sq/engine.h - sq-window: options and presets, the plan made of them, and the passes over a stream
 *
 * One pass: the engine starts at the embedding, or at a matching cursor, and moves forward. Xf went through the
 * original layers; it stands behind the window's last layer and so is the window's target. Xq goes through the
 * quantized layers and stands in front of the window's first. A layer leaves the engine, written to the output, as
 * soon as no later window covers it. Memory: the layers of the largest window, Xf and Xq. */
#ifndef SQ_ENGINE_H
#define SQ_ENGINE_H

#include "sq/schedule.h"
#include "sq/stream.h"
#include "sq/window.h"

SQ_BEGIN_DECLS

enum sq_preset { SQ_PRESET_DEFAULT, SQ_PRESET_PAPER };
enum sq_init { SQ_INIT_PRESET, SQ_INIT_MINMAX, SQ_INIT_MSE, SQ_INIT_ACT };
enum sq_loss_choice { SQ_CHOOSE_PRESET, SQ_CHOOSE_MSE, SQ_CHOOSE_TOKEN, SQ_CHOOSE_MIX };
enum sq_order { SQ_ORDER_PASS, SQ_ORDER_WINDOW };

/* What the command line says; 0 or NULL: as preset and scheme say (docs/method.md 4). */
struct sq_window_opts {
    const char *scheme, *learn, *schedule, *windows, *work, *spill, *memory, *jobs, *job;
    int preset, init, loss, order;
    double rate, gamma, lr[SQ_P_KINDS];
    int64_t epochs, batch, shards, rank, layers;
    struct sq_strs workers;
    bool strict, no_cursor, plan, dry_run, worker;
};

#define SQ_WINDOW_OPTS_INIT \
    {.scheme = NULL, .schedule = "slider:4,4,2,1", .gamma = 0.5, .batch = 3, .shards = 1, .rank = 4}

/* The rows of an option table for a struct sq_window_opts o. */
#define SQ_WINDOW_OPTS(o)                                                                                             \
    SQ_OPT_STR('s', "scheme", &(o).scheme, "SCHEME", "W2A16, W3A16g128, W4A4, W4A16g64s ..."),                         \
    SQ_OPT_ENUM(0, "preset", &(o).preset, "default|paper", "paper: start, loss and learning rates as published"),     \
    SQ_OPT_STR(0, "learn", &(o).learn, "LIST",                                                                        \
               "none, or of lora, lwc (clipping), cs (channel scaling); unset: lora,lwc, below A16 cs too"),          \
    SQ_OPT_STR(0, "schedule", &(o).schedule, "S", "slider:Ls,Ld,s,i | fixed:s,i | layer | blocks:n | 0-0,0-1,1-2"),   \
    SQ_OPT_FLAG(0, "plan", &(o).plan, "print the windows, one a line, and exit"),                                     \
    SQ_OPT_INT(0, "layers", &(o).layers, 0, 1024, "with --plan: layers of the model; 0: read the stream"),            \
    SQ_OPT_STR(0, "windows", &(o).windows, "LIST", "only these windows of the schedule: 0-3 or 2,5-7"),               \
    SQ_OPT_REAL(0, "rate", &(o).rate, 0.0, 1.0, "one stage only, at this share of the channels; 0: all of them"),     \
    SQ_OPT_REAL(0, "gamma", &(o).gamma, 0.01, 1.0, "step of that share: stages at gamma, 2 gamma ... 1"),             \
    SQ_OPT_ENUM(0, "order", &(o).order, "pass|window", "a stage over all windows, or all stages of a window"),        \
    SQ_OPT_INT(0, "epochs", &(o).epochs, 0, 1 << 20, "of all stages together; 0: by scheme, 20 or 60"),               \
    SQ_OPT_INT('b', "batch", &(o).batch, 1, 1 << 16, "samples per step"),                                             \
    SQ_OPT_INT(0, "shards", &(o).shards, 1, 1024, "parts of a batch, whose gradients are computed on their own and added"), \
    SQ_OPT_INT(0, "rank", &(o).rank, 1, 1024, "of LoRA"),                                                             \
    SQ_OPT_REAL(0, "lr-alpha", &(o).lr[SQ_P_ALPHA], 0.0, 1e3, "learning rate of cs, times batch; 0: by scheme"),      \
    SQ_OPT_REAL(0, "lr-lora", &(o).lr[SQ_P_LORA], 0.0, 1e3, "learning rate of lora, times batch; 0: by scheme"),      \
    SQ_OPT_REAL(0, "lr-clip", &(o).lr[SQ_P_CLIP], 0.0, 1e3, "learning rate of lwc, times batch; 0: by scheme"),       \
    SQ_OPT_ENUM(0, "init", &(o).init, "preset|minmax|mse|act", "where clipping starts"),                              \
    SQ_OPT_ENUM(0, "loss", &(o).loss, "preset|mse|token|mix", "what a window minimises"),                             \
    SQ_OPT_FLAG(0, "strict", &(o).strict, "a window that falls back is a failure"),                                   \
    SQ_OPT_FLAG(0, "no-cursor", &(o).no_cursor, "ignore a cursor: start from the tokens"),                            \
    SQ_OPT_STR(0, "work", &(o).work, "DIR", "keep finished windows there: the same command goes on after a stop"),    \
    SQ_OPT_STR(0, "spill", &(o).spill, "DIR", "keep the activations in a file there (unlinked), not in memory"),     \
    SQ_OPT_STR(0, "memory", &(o).memory, "SIZE", "at most this much, 800M or 4G: computes again what does not fit"),     \
    SQ_OPT_STR(0, "jobs", &(o).jobs, "DIR", "write every window as a job file there, with float inputs; learn nothing"), \
    SQ_OPT_STR(0, "job", &(o).job, "FILE", "run such a file, in place of -i"),                                        \
    SQ_OPT_LIST(0, "workers", &(o).workers, "TO,FROM", "endpoints of a worker, which computes parts of batches; once for each"), \
    SQ_OPT_FLAG(0, "worker", &(o).worker, "be such a worker: windows and steps in, gradients out"),                      \
    SQ_OPT_FLAG(0, "dry-run", &(o).dry_run, "memory, disk and time, from one timed step; no output")

enum { SQ_MAX_RATES = 100 };

/* The options with everything filled in; the strings are borrowed from the options. */
struct sq_plan {
    struct sq_scheme scheme;
    struct sq_params_spec params;
    enum sq_init init;      /* never SQ_INIT_PRESET */
    enum sq_loss_kind loss;
    double lr[SQ_P_KINDS];  /* 0: not learned */
    double lora_steps;      /* steps of a window that LoRA's learning rate belongs to; 0: any number */
    int64_t epochs, batch, shards;
    double share;           /* of the epochs, for each stage */
    double rate[SQ_MAX_RATES]; /* of the stages: the share of the channels that is rounded */
    int nrate;
    bool window_order, strict, no_cursor, job;
    bool learns;            /* false: nothing is trained */
    bool needs_acts;        /* false: layers get their scheme and nothing else */
    bool paper;             /* the preset */
    const char *learn, *schedule, *windows, *work, *spill;
    struct sq_strs workers;
    int64_t memory; /* bytes that the run may take; 0: no limit */
};

/* SQ_E_ARG on options that contradict each other. */
int sq_plan_make(struct sq_plan *p, const struct sq_window_opts *o, int64_t seed) SQ_MUSTUSE;
/* Learning rate of a kind of parameter in a window of so many steps, times batch. LoRA starts from nothing: the default
 * preset's rate belongs to the published number of steps and grows with the root of what a run falls short of it (and
 * falls with that of what it has more). Clipping and scaling start nearly right and keep theirs. */
double sq_plan_lr(const struct sq_plan *p, enum sq_param_kind kind, int64_t steps);
/* The schedule for a model of `layers` layers and which of its windows were chosen; *chosen [schedule->n], free both. */
int sq_plan_windows(struct sq_schedule *s, bool **chosen, const struct sq_plan *p, int64_t layers) SQ_MUSTUSE;
/* --plan: the chosen windows, "first-last" one a line, to stdout */
int sq_plan_print(const struct sq_plan *p, int64_t layers) SQ_MUSTUSE;

/* All passes: in to out, through a spool between them. out is begun (sq_stream_begin) here, not finished. */
int sq_window_passes(struct sq_stream *out, struct sq_stream *in, const struct sq_plan *p, struct sq_app *app) SQ_MUSTUSE;
/* --jobs: in's windows, which may share no layer, as streams DIR/FIRST-LAST.sq that sq-window --job runs, DIR/arguments,
 * which --config gives them, and DIR/plan.tsv, a line for each: id, input, command, output, tabs between them. */
int sq_window_jobs(struct sq_stream *in, const struct sq_plan *p, struct sq_app *app, const char *dir) SQ_MUSTUSE;
/* The number of layers from a stream's model record. */
int sq_window_layers(int64_t *layers, struct sq_stream *in) SQ_MUSTUSE;
/* --worker: from in what sq-window --workers sends, to out the gradients (schemas/stream.md). Only spill of the plan counts. */
int sq_window_worker(struct sq_stream *out, struct sq_stream *in, const struct sq_plan *p, const struct sq_app *app) SQ_MUSTUSE;
/* --dry-run: reads in as far as the first layer, prints an estimate to stdout. */
int sq_window_estimate(struct sq_stream *in, const struct sq_plan *p, struct sq_app *app) SQ_MUSTUSE;

SQ_END_DECLS
#endif
