/* sq/rng.h - counter-based random numbers: a number depends on its key and position only, so that
 * pieces, passes and hosts agree */
#ifndef SQ_RNG_H
#define SQ_RNG_H

#include "sq/base.h"

SQ_BEGIN_DECLS

struct sq_rng {
    uint64_t key;
    uint64_t counter;
};

/* What a generator is for: two uses never share numbers. */
enum sq_rng_use { SQ_RNG_LORA = 1, SQ_RNG_ORDER, SQ_RNG_CALIB, SQ_RNG_TEST };

/* A generator for (seed, use, a, b, c, d); same arguments, same numbers. */
struct sq_rng sq_rng_init(uint64_t seed, enum sq_rng_use use, uint64_t a, uint64_t b, uint64_t c,
                          uint64_t d);
uint64_t sq_rng_u64(struct sq_rng *r);
double sq_rng_uniform(struct sq_rng *r);                /* [0, 1), 53 bits */
double sq_rng_normal(struct sq_rng *r);                 /* mean 0, variance 1 */
uint64_t sq_rng_below(struct sq_rng *r, uint64_t n);    /* [0, n), unbiased; n > 0 */
void sq_rng_shuffle(struct sq_rng *r, int64_t *v, int64_t n);

SQ_END_DECLS
#endif
