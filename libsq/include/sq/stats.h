/* sq/stats.h - sq-calib --stats: what enters the linears of the float model, per input channel */
#ifndef SQ_STATS_H
#define SQ_STATS_H

#include "sq/app.h"
#include "sq/calib.h"
#include "sq/config.h"
#include "sq/stream.h"

SQ_BEGIN_DECLS

/* The float model over the learning samples, layer by layer as the stream brings them. Every layer gets the tensors
 * "input_sq.qkv" [C], "input_sq.out" [H*D], "input_sq.fc1" [C] and "input_sq.fc2" [F] ([E,F] with experts), f32:
 * the mean over all tokens of the square of an input channel (of an expert: over all tokens, 0 where it was not chosen).
 * Memory: one layer, and twice samples x tokens x hidden numbers, bf16 where products are, else f32. */
struct sq_stats_pass;

/* samples are copied; the held-out ones are not looked at. */
int sq_stats_new(struct sq_stats_pass **out, const struct sq_config *cfg, const struct sq_samples *samples,
                 const struct sq_app *app) SQ_MUSTUSE;
void sq_stats_free(struct sq_stats_pass **p);
/* A tensor or layer record that follows the tokens: passed on, a layer with its statistics. */
int sq_stats_pass_on(struct sq_stats_pass *p, struct sq_stream *out, struct sq_stream *in,
                     const struct sq_record *rec) SQ_MUSTUSE;

SQ_END_DECLS
#endif
