/* sq/eval.h - perplexity of a model, and how far it is from another one (docs/method.md 10) */
#ifndef SQ_EVAL_H
#define SQ_EVAL_H

#include "sq/block.h"
#include "sq/merge.h"
#include "sq/op.h"
#include "sq/source.h"
#include "sq/tok.h"

SQ_BEGIN_DECLS

/* What is measured on: n windows of `length` tokens each. Release with sq_windows_release. */
struct sq_windows {
    int32_t *ids; /* [n, length] */
    int64_t n, length;
};

/* Cut ids into windows, one after the other, the last partial one dropped; at most max windows, 0 for all.
 * Fewer than one window, or a length below 2: SQ_E_ARG. */
int sq_windows_cut(struct sq_windows *w, const struct sq_ids *ids, int64_t length, int64_t max) SQ_MUSTUSE;
void sq_windows_release(struct sq_windows *w);

/* Append the ids of a text file (as sq_text_read takes it), tokenised once with the BOS rule of the model's own tokenizer,
 * which is among the source's files; SQ_E_ARG says so when it is not. */
int sq_ids_from_text(struct sq_ids *out, const struct sq_source *src, const char *path) SQ_MUSTUSE;

/* Who wants to know how far a pass is. Either function may be NULL. */
struct sq_watch {
    void (*progress)(void *user, double done);                          /* of layers + 1: the head counts as one */
    void (*layer)(void *user, int64_t layer, const float *hidden);      /* [n, length, C] behind a layer */
    void *user;
};

/* A model's view of all windows, up to its head. One pass over the model: all windows advance layer by layer, and
 * one layer is in memory at a time. */
struct sq_states {
    struct sq_config cfg;
    int64_t n, length;
    float *x;    /* [n, length, C] the host's; after sq_states_head behind the final norm */
    float *head; /* [V, C] where the arrays of operations lie */
    const struct sq_ops *ops;
    const struct sq_watch *watch; /* or NULL */
    struct sq_states_work *work;
};

/* The embedding of every token of w. embed [V, C], floats or codes. An id outside of the vocabulary: SQ_E_VALUE. */
int sq_states_embed(struct sq_states *s, const struct sq_config *cfg, const struct sq_table *embed,
                    const struct sq_windows *w, const struct sq_ops *ops, const struct sq_watch *watch) SQ_MUSTUSE;
/* One layer further: float layers as they are; learning layers with their parameters folded in and rounded,
 * activations rounded, as their scheme says; merged layers from their codes. SQ_E_VALUE names layer and window of the
 * first NaN or Inf. */
int sq_states_layer(struct sq_states *s, const struct sq_layer *l) SQ_MUSTUSE;
/* Final norm; keeps the head as f32. */
int sq_states_head(struct sq_states *s, const struct sq_tensor *norm, const struct sq_table *head) SQ_MUSTUSE;
/* All of it, with src read to its end. */
int sq_states_run(struct sq_states *s, struct sq_source *src, const struct sq_windows *w, const struct sq_ops *ops,
                  const struct sq_watch *watch) SQ_MUSTUSE;
void sq_states_release(struct sq_states *s);
/* logits [rows, V], where the arrays of operations lie, of rows of s->x that begin at `first`; SQ_E_VALUE names the window of a NaN or Inf. */
int sq_states_logits(float *logits, const struct sq_states *s, int64_t first, int64_t rows) SQ_MUSTUSE;

/* A figure and its standard error over the windows (NaN with one window). */
struct sq_metric {
    double value, error;
};

/* exp of the mean over windows of the mean negative log-likelihood of tokens 2..length. nll [n] takes the windows'
 * means, or NULL. Logits are made in chunks of rows: never tokens x vocabulary. */
int sq_perplexity(struct sq_metric *out, double *nll, const struct sq_states *s, const struct sq_windows *w) SQ_MUSTUSE;
/* Over the same positions: mean KL(base || s) of the next token's distribution, and the share of positions where both
 * have the same most likely token. Vocabularies of different size: SQ_E_ARG. */
int sq_divergence(struct sq_metric *kl, struct sq_metric *top1, const struct sq_states *s,
                  const struct sq_states *base) SQ_MUSTUSE;

SQ_END_DECLS
#endif
