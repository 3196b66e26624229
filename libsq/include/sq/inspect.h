/* sq/inspect.h - looking at streams: what sq-dump does
 *
 * spec names the stream as for sq_stream_open(). Text goes to f; errors of f show when it is flushed. */
#ifndef SQ_INSPECT_H
#define SQ_INSPECT_H

#include <stdio.h>

#include "sq/hash.h"
#include "sq/stream.h"

SQ_BEGIN_DECLS

/* One line per record: for people, or as JSON the headers with "payload_xxh3", the digest of the payload. */
int sq_inspect_list(FILE *f, const char *spec, bool json) SQ_MUSTUSE;
/* The stages that a stream went through, oldest first. */
int sq_inspect_provenance(FILE *f, const char *spec, bool json) SQ_MUSTUSE;

/* Statistics and the first `values` values of a tensor. name is the tensor's own, or "model.layers.3.NAME"
 * for one of layer 3; layer >= 0 asks for that layer only. SQ_E_ARG if there is none. */
struct sq_inspect_tensor {
    const char *name;
    int64_t layer, values;
};
int sq_inspect_tensor(FILE *f, const char *spec, const struct sq_inspect_tensor *want, bool json) SQ_MUSTUSE;

struct sq_tensor_stats {
    int64_t n, zeros, nan, inf;
    double min, max, mean, rms; /* of the finite values; 0 if there are none */
};
void sq_tensor_stats_of(struct sq_tensor_stats *out, const struct sq_tensor *t);

/* What "same bytes" means: the digest over tokens, layer states and schemes, and every tensor, in their
 * order; nothing of provenance, side files, windows and cursors (schemas/stream.md). */
int sq_inspect_digest(char out[SQ_HASH_TEXT], const char *spec) SQ_MUSTUSE;

/* The same content in both: 0, or SQ_E_CHECK with the first difference as its text. tolerance 0: bit for bit.
 * Else float tensors may differ by tolerance times the largest magnitude in b's tensor, and in their float
 * type. Every difference is one line on f, the first one comes first. */
int sq_inspect_cmp(FILE *f, const char *spec_a, const char *spec_b, double tolerance) SQ_MUSTUSE;

/* A complete model stream: every digest right, records in their order, layers 0 .. L-1 with what the config
 * demands. SQ_E_CHECK says what is wrong (SQ_E_TRUNC and SQ_E_ABORTED stay). One line on
 * f when all is well. */
int sq_inspect_check(FILE *f, const char *spec) SQ_MUSTUSE;

SQ_END_DECLS
#endif
