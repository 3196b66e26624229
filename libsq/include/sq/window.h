/* sq/window.h - learning one window of layers (docs/method.md 3, 4): losses, training steps, the guard
 *
 * Shapes: N samples of T tokens of C channels, [N,T,C], which wait in f32 or bf16; the last `heldout` samples are only
 * evaluated. */
#ifndef SQ_WINDOW_H
#define SQ_WINDOW_H

#include "sq/params.h"
#include "sq/schedule.h"

SQ_BEGIN_DECLS

/* ---- loss ---------------------------------------------------------------------------------
 * Every loss is a mean over tokens of weight[token] * |y - t|^2:
 *   mse    1 / C
 *   token  1 / |t|^2: each token's squared error over its target's squared norm
 *   mix    half of token and half of mse, the latter over the window's mean square of t
 * |t|^2 is kept above 1e-9 of its mean, so that an all-zero token does not rule the window. */
enum sq_loss_kind { SQ_LOSS_MSE, SQ_LOSS_TOKEN, SQ_LOSS_MIX };

/* weight [tokens] for targets t [tokens, C]; the window's means are taken over the first `train` tokens. */
void sq_loss_weights(double *weight, enum sq_loss_kind kind, struct sq_floats t, int64_t tokens, int64_t train,
                     int64_t hidden);

/* ---- trainer ------------------------------------------------------------------------------
 * Workspace for windows of up to `layers` layers and batches of up to `batch` samples of `tokens` tokens; of layers rounded
 * as s says at any rate (NULL: float layers only). */
struct sq_trainer;

int sq_trainer_new(struct sq_trainer **out, const struct sq_config *cfg, const struct sq_ops *ops,
                   const struct sq_scheme *s, int64_t layers, int64_t batch, int64_t tokens) SQ_MUSTUSE;
void sq_trainer_free(struct sq_trainer **t);
/* what a window of that many layers uses of it */
int64_t sq_trainer_bytes(const struct sq_config *cfg, const struct sq_ops *ops, const struct sq_scheme *s,
                         int64_t layers, int64_t batch, int64_t tokens, bool recompute);

/* One layer of a window: original weights and learnable parameters (NULL: plain rounding). Borrowed. */
struct sq_member {
    const struct sq_block *w;
    struct sq_params *p;
};

/* x [N,T,C] through one layer, in place: as it is (stats, may be NULL, sums its inputs), or folded and
 * rounded at the scheme's rate. A signal stops it: SQ_E_IO. */
int sq_trainer_float(struct sq_trainer *t, struct sq_floats x, int64_t samples, const struct sq_block *w,
                     struct sq_input_stats *stats) SQ_MUSTUSE;
int sq_trainer_rounded(struct sq_trainer *t, struct sq_floats x, int64_t samples, const struct sq_member *m,
                       const struct sq_scheme *s) SQ_MUSTUSE;
/* Starting clip factors of a layer's parameters (sq_params_search), where the operations are: with no more memory there
 * than a window of that layer takes. */
int sq_trainer_search(struct sq_trainer *t, const struct sq_member *m, const struct sq_scheme *s,
                      const struct sq_input_stats *stats) SQ_MUSTUSE;

struct sq_workers;

/* A window and what it learns from. All borrowed. */
struct sq_window_job {
    const struct sq_member *member;
    int64_t n;
    struct sq_scheme scheme; /* at the stage's rate */
    struct sq_floats xq, target;
    const double *weight; /* [N,T], from sq_loss_weights */
    int64_t samples, heldout;
    /* Training: which samples, one after the other. A step takes the next `batch` of them, or what is left of an
     * epoch, which is `epoch` picks. Learning rates are times `batch`, in a smaller step too. */
    const int64_t *order; /* [picks] */
    int64_t picks, epoch, batch;
    double lr[SQ_P_KINDS];
    bool recompute; /* keep the inputs of layers only: the backward makes a layer's forward again. The same bytes */
    int64_t shards; /* a batch is that many parts, whose gradients are computed on their own and added in their order, in
                     * f32; 0 as 1. They decide the bytes, who computes a part does not */
    struct sq_workers *workers; /* who computes parts; NULL: all of them here */
    /* after every step; a negative result stops the training and is returned */
    int (*step)(void *ctx, int64_t step, int64_t steps, double loss);
    void *ctx;
};

struct sq_losses {
    double train, heldout; /* heldout is 0 without such samples */
};

int64_t sq_window_steps(const struct sq_window_job *job);
/* Mean loss over all tokens; plain: as if no layer had parameters. */
int sq_window_eval(struct sq_losses *out, struct sq_trainer *t, const struct sq_window_job *job,
                   bool plain) SQ_MUSTUSE;
/* y [N,T,C] = the rounded window on xq */
int sq_window_forward(struct sq_floats y, struct sq_trainer *t, const struct sq_window_job *job) SQ_MUSTUSE;
/* Train with a fresh optimizer. 1: done; 0: a loss or a gradient was not finite, parameters are as far as they came. */
int sq_window_train(struct sq_trainer *t, const struct sq_window_job *job) SQ_MUSTUSE;
/* Gradients of the parameters (sq_param.grad) and the loss of one batch of samples, without an update; NaN where a gradient
 * of what is learned is not finite. */
int sq_window_grad(double *loss, struct sq_trainer *t, const struct sq_window_job *job, const int64_t *pick,
                   int64_t n) SQ_MUSTUSE;

/* order[picks]: every epoch's samples 0..samples-1 shuffled by the key (seed, first, last, rate, epoch). */
int sq_window_order(int64_t *order, int64_t picks, int64_t samples, int64_t seed, const struct sq_window *w,
                    double rate) SQ_MUSTUSE;

/* ---- guard --------------------------------------------------------------------------------
 * Training may not make a window worse: a loss that is not finite or rises over entry is retried once from
 * the entry parameters with half the learning rates, then the entry parameters stay. */
struct sq_window_result {
    struct sq_losses plain, entry, exit;
    int64_t steps, retries, fallbacks;
};

int sq_window_learn(struct sq_window_result *r, struct sq_trainer *t,
                    const struct sq_window_job *job) SQ_MUSTUSE;

SQ_END_DECLS
#endif
