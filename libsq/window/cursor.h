/* cursor records: the activations in front of a layer, so that the windows behind it can be learned by
 * another process
 *
 * {"record":"cursor","announce":true,...} comes behind the tokens, so that a reader knows before the
 * embedding whether to wait; {"record":"cursor","announce":false,...,"digest","bytes"} with Xf and Xq stands
 * in front of its layer. Xq stands in front of "layer"; Xf, the target of the last window, in front of
 * "float_layer", which is not lower. "same": true: there is Xf only, and Xq is the same. */
#ifndef SQ_CURSOR_H
#define SQ_CURSOR_H

#include "acts.h"
#include "sq/hash.h"
#include "sq/op.h"
#include "sq/scheme.h"

struct cursor {
    int64_t layer, float_layer;
    struct sq_scheme scheme; /* its rate is that of Xq */
    bool same;               /* Xq is Xf, and written once */
};

int cursor_announce(struct sq_stream *out, const struct cursor *c, const struct acts *a,
                    const struct sq_ops *ops) SQ_MUSTUSE;
bool cursor_is_announcement(const json_t *head);
/* 1: an announced cursor can be used by windows that begin with `first` at the scheme and its rate; 0: it
 * cannot (the log says why); SQ_E_ARG: made by another backend, so that results would not be the same bytes.
 */
int cursor_matches(struct cursor *c, const json_t *head, const struct acts *a, const struct sq_ops *ops,
                   const struct sq_scheme *scheme, int64_t first, int64_t last) SQ_MUSTUSE;
int cursor_write(struct sq_stream *out, const struct cursor *c, const struct acts *a,
                 const struct sq_ops *ops, const struct sq_hash *seen) SQ_MUSTUSE;
/* The payload into a (allocated here), when digest and place are those announced. */
int cursor_read(struct acts *a, struct sq_stream *in, const struct sq_record *rec, const struct cursor *c,
                const struct sq_hash *seen) SQ_MUSTUSE;

#endif
