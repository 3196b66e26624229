#include "sq/rng.h"

#include <math.h>

/* The finalizer of SplitMix64 (Steele, Lea, Flood 2014) is a bijection with full avalanche: key and position
 * mixed through it give numbers that can be computed in any order. */
static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

struct sq_rng sq_rng_init(uint64_t seed, enum sq_rng_use use, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    const uint64_t part[] = {seed, (uint64_t)use, a, b, c, d};
    uint64_t key = 0;
    for (int i = 0; i < SQ_COUNT(part); i++)
        key = mix(key ^ mix(part[i]));
    return (struct sq_rng){.key = key, .counter = 0};
}

uint64_t sq_rng_u64(struct sq_rng *r)
{
    return mix(r->key ^ mix(r->counter++));
}

double sq_rng_uniform(struct sq_rng *r)
{
    return (double)(sq_rng_u64(r) >> 11) * 0x1p-53;
}

double sq_rng_normal(struct sq_rng *r)
{
    const double u = 1.0 - sq_rng_uniform(r), v = sq_rng_uniform(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

uint64_t sq_rng_below(struct sq_rng *r, uint64_t n)
{
    SQ_ASSERT(n > 0);
    const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    uint64_t x;
    do
        x = sq_rng_u64(r);
    while (x >= limit);
    return x % n;
}

void sq_rng_shuffle(struct sq_rng *r, int64_t *v, int64_t n)
{
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t j = (int64_t)sq_rng_below(r, (uint64_t)i + 1);
        const int64_t t = v[i];
        v[i] = v[j];
        v[j] = t;
    }
}
