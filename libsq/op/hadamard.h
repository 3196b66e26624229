/* Hadamard matrices (docs/method.md 8), for the reference, the processor and the device: H = H_m (x) H_2^k of order
 * n = 2^k m, entries +-1, H_2^k in Sylvester's order (its entry (i, j) is -1 where i & j has an odd number of ones).
 *
 * m = 1, or 4 times an odd number where one of Paley's constructions has a field of q elements, q a prime or its
 * square: q = m - 1, or q = m / 2 - 1. Both border the squares of the field, chi(x - y), to a conference matrix C of
 * order q + 1:
 *   H_m = C + I,   or   C (x) [1 1; 1 -1] + I (x) [1 -1; -1 -1]
 * So m is 4 times an odd number up to 63, but 92, 116, 156, 172, 188, 236. Private to op. */
#ifndef SQ_HADAMARD_H
#define SQ_HADAMARD_H

#include <string.h>

#include "sq/base.h"

#ifdef __CUDACC__
#define HADAMARD_INLINE static inline __host__ __device__
#else
#define HADAMARD_INLINE static inline
#endif

enum {
    HADAMARD_MOST = 1 << 20, /* of orders */
    HADAMARD_ODD = 63,       /* the largest odd part of an order */
    HADAMARD_SMALL = 4 * HADAMARD_ODD,
};

struct hadamard {
    int m, k;
    int q, p, w;                   /* q = p w elements; element a w + b is a + b sqrt(a non-square) */
    int8_t square[HADAMARD_SMALL]; /* chi: 0 of 0, 1 of squares, -1 of the others */
};

/* ---- host ---- */

static inline int hadamard_factor(int q) /* the smallest */
{
    for (int p = 2; p * p <= q; p++)
        if (q % p == 0)
            return p;
    return q;
}

static inline bool hadamard_is_square(int x, int p)
{
    for (int a = 1; a < p; a++)
        if (a * a % p == x)
            return true;
    return false;
}

/* Is there a field of q elements here? Then its squares. */
static inline bool hadamard_field(struct hadamard *h, int q)
{
    const int p = hadamard_factor(q);
    int other = 0; /* is not a square of p's */
    if (p == 2 || (q != p && q != p * p))
        return false;
    h->q = q;
    h->p = p;
    h->w = q / p;
    if (h->w > 1)
        for (other = 2; hadamard_is_square(other, p); other++)
            ;
    memset(h->square, -1, (size_t)q);
    for (int a = 0; a < p; a++)
        for (int b = 0; b < h->w; b++)
            h->square[(a * a + other * b * b) % p * h->w + 2 * a * b % p] = 1;
    h->square[0] = 0;
    return true;
}

/* false: no matrix of this order is known here */
static inline bool hadamard_of(struct hadamard *h, int64_t n)
{
    memset(h, 0, sizeof *h);
    h->m = 1;
    if (n < 1 || n > HADAMARD_MOST)
        return false;
    for (; n % 2 == 0; n /= 2)
        h->k++;
    if (n == 1)
        return true;
    if (n > HADAMARD_ODD || h->k < 2)
        return false;
    h->m = 4 * (int)n;
    h->k -= 2;
    return hadamard_field(h, h->m - 1) || hadamard_field(h, h->m / 2 - 1);
}

/* ---- anywhere ---- */

HADAMARD_INLINE int hadamard_conference(const struct hadamard *h, int i, int j)
{
    if (i == 0 || j == 0)
        return i == j ? 0 : j == 0 && h->q % 4 == 3 ? -1 : 1;
    const int a = (i - 1) / h->w - (j - 1) / h->w + h->p, b = (i - 1) % h->w - (j - 1) % h->w + h->p;
    return h->square[a % h->p * h->w + b % h->p];
}

/* entry (i, j) of H_m */
HADAMARD_INLINE int hadamard_small(const struct hadamard *h, int i, int j)
{
    if (h->m == 1)
        return 1;
    if (h->q == h->m - 1)
        return hadamard_conference(h, i, j) + (i == j);
    const bool both = i % 2 && j % 2, one = i % 2 || j % 2;
    return hadamard_conference(h, i / 2, j / 2) * (both ? -1 : 1) + (i / 2 == j / 2) * (one ? -1 : 1);
}

/* entry (i, j) of H_m (x) H_2^k */
HADAMARD_INLINE int hadamard_entry(const struct hadamard *h, int k, int i, int j)
{
    unsigned ones = (unsigned)(i & j) & ((1u << k) - 1);
    for (int s = 16; s > 0; s /= 2)
        ones ^= ones >> s;
    return hadamard_small(h, i >> k, j >> k) * (ones & 1 ? -1 : 1);
}

#endif
