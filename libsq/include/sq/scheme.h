/* sq/scheme.h - what a layer is quantized to: "W2A16", "W3A16g128", "W4A4", "W4A16g64s" */
#ifndef SQ_SCHEME_H
#define SQ_SCHEME_H

#include <jansson.h>

#include "sq/rowquant.h"

SQ_BEGIN_DECLS

struct sq_scheme {
    int wbits;     /* 1..8, 16: weights stay float */
    int abits;     /* 2..8, 16: activations stay float */
    int64_t group; /* 0: per output channel */
    bool sym;
    double rate;   /* rho in force */
};

/* W<bits>A<bits>[g<group>][s]; SQ_E_ARG says what is allowed (W1 asymmetric only, A1 refused). rate is 1. */
int sq_scheme_parse(struct sq_scheme *s, const char *name) SQ_MUSTUSE;
/* W<bits>[g<group>] for a tensor outside of the layers (--embed W8g32): symmetric, abits 16. */
int sq_scheme_parse_tensor(struct sq_scheme *s, const char *name) SQ_MUSTUSE;
enum { SQ_SCHEME_NAME = 32 };
const char *sq_scheme_name(char buf[SQ_SCHEME_NAME], const struct sq_scheme *s);
/* {"wbits", "abits", "group", "symmetric", "rate"}; *out is a new reference */
int sq_scheme_to_json(json_t **out, const struct sq_scheme *s) SQ_MUSTUSE;
int sq_scheme_from_json(struct sq_scheme *s, const json_t *obj) SQ_MUSTUSE;
/* the row quantizers of weights (zero on) and of activations (asymmetric, no groups, zero off) */
struct sq_rowq sq_scheme_weights(const struct sq_scheme *s);
struct sq_rowq sq_scheme_acts(const struct sq_scheme *s);
/* Linears of up to k input channels can multiply codes: weights and activations are rounded, to few enough bits, in rows
 * without groups. */
bool sq_scheme_codes(const struct sq_scheme *s, int64_t k);

SQ_END_DECLS
#endif
