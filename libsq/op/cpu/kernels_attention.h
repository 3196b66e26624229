/* Softmax of a block of transposed scores; included by the kernel files of each instruction set. */
#include <math.h>

#include "cpu.h"
#include "vec.h"

/* Of n keys: how many are seen by every query from i on, and (*some) by at least one of the LANES queries from i on. */
static inline int64_t seen_by_all(int64_t *some, int64_t n, int64_t i, int64_t d)
{
    *some = SQ_MAX(SQ_MIN(n, i + LANES + d), 0);
    return SQ_MAX(SQ_MIN(n, i + 1 + d), 0);
}

/* lanes whose query sees key r */
VEC_INLINE vi sees(int64_t r, int64_t i, int64_t d)
{
    return (vi)COUNTED >= iset((int32_t)(r - i - d));
}

static void softmax(float *s, int64_t ld, int64_t n, int64_t m, int64_t d, float factor, float *top, float *sum,
                    float *keep)
{
    const vf f = vset(factor), zero = vset(0);
    for (int64_t i = 0; i < m; i += LANES) {
        int64_t some, r = 0;
        const int64_t all = seen_by_all(&some, n, i, d);
        const vf old = vload(top + i);
        vf max = old, acc = zero;
        for (; r < all; r++)
            max = vmax(vload(s + r * ld + i) * f, max);
        for (; r < some; r++)
            max = vmax(vselect(sees(r, i, d), vload(s + r * ld + i) * f, max), max);
        for (r = 0; r < all; r++) {
            const vf p = vexp(vload(s + r * ld + i) * f - max);
            vstore(s + r * ld + i, p);
            acc += p;
        }
        for (; r < some; r++) {
            const vf p = vselect(sees(r, i, d), vexp(vload(s + r * ld + i) * f - max), zero);
            vstore(s + r * ld + i, p);
            acc += p;
        }
        for (; r < n; r++)
            vstore(s + r * ld + i, zero);
        const vf k = vexp(old - max);
        vstore(keep + i, k);
        vstore(sum + i, vfma(vload(sum + i), k, acc));
        vstore(top + i, max);
    }
}

static void soften(float *s, float *ds, int64_t ld, int64_t n, int64_t m, int64_t d, float factor, const float *lse,
                   const float *delta)
{
    const vf f = vset(factor), zero = vset(0);
    for (int64_t i = 0; i < m; i += LANES) {
        int64_t some, r = 0;
        const int64_t all = seen_by_all(&some, n, i, d);
        const vf l = vload(lse + i), mean = vload(delta + i);
        for (; r < all; r++) {
            const vf p = vexp(vload(s + r * ld + i) * f - l);
            vstore(s + r * ld + i, p);
            vstore(ds + r * ld + i, p * f * (vload(ds + r * ld + i) - mean));
        }
        for (; r < some; r++) {
            const vi m1 = sees(r, i, d);
            const vf p = vselect(m1, vexp(vload(s + r * ld + i) * f - l), zero);
            vstore(s + r * ld + i, p);
            vstore(ds + r * ld + i, vselect(m1, p * f * (vload(ds + r * ld + i) - mean), zero));
        }
        for (; r < n; r++) {
            vstore(s + r * ld + i, zero);
            vstore(ds + r * ld + i, zero);
        }
    }
}
