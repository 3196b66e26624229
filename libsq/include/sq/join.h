/* sq/join.h - layers that were learned elsewhere take their places in the model's stream */
#ifndef SQ_JOIN_H
#define SQ_JOIN_H

#include "sq/layer.h"

SQ_BEGIN_DECLS

/* Streams with some layers of a model each, ascending: what sq-window --job writes. All are read side by side, once. */
struct sq_join;

/* n may be 0. Paths are borrowed. */
int sq_join_open(struct sq_join **out, char *const *path, int n) SQ_MUSTUSE;
/* l, the next layer of the model: 1 and replaced when a stream has it, else 0. SQ_E_FORMAT: its float tensors are not
 * those of l, so that it belongs to another model; or two streams have it, and not the same. Names streams and tensor. */
int sq_join_layer(struct sq_join *j, struct sq_layer *l) SQ_MUSTUSE;
/* Every stream has ended, with all its layers used. */
int sq_join_finish(struct sq_join **j) SQ_MUSTUSE;
void sq_join_abort(struct sq_join **j, int code); /* NULL-safe */

SQ_END_DECLS
#endif
