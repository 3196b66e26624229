/* the activations of a pass, Xf and Xq: filled from tokens and embedding, or from a cursor */
#ifndef SQ_ACTS_H
#define SQ_ACTS_H

#include "sq/config.h"
#include "sq/op.h"
#include "sq/stream.h"

struct acts {
    int64_t samples, heldout, tokens, hidden;
    int32_t *ids;   /* [samples, tokens] */
    struct sq_floats xf, xq; /* [samples, tokens, hidden], their x NULL before acts_alloc */
    bool embedded;
    const char *spill; /* folder whose disk holds xf and xq; NULL: memory */
};

/* Their type, as these operations want it: products that round their operands gain nothing from more bits. */
void acts_type(struct acts *a, const struct sq_ops *ops);
void acts_release(struct acts *a);
int64_t acts_count(const struct acts *a); /* numbers in each of the two */
size_t acts_bytes(const struct acts *a);  /* that each takes */
int acts_alloc(struct acts *a) SQ_MUSTUSE;
/* The tokens record: read, checked against the model, passed on. */
int acts_tokens(struct acts *a, struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec,
                const struct sq_config *cfg) SQ_MUSTUSE;
/* The embedding: passed on piece by piece; the rows of the tokens become xf and xq. */
int acts_embed(struct acts *a, struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec,
               const struct sq_config *cfg) SQ_MUSTUSE;

#endif
