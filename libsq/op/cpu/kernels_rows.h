/* Norms, element-wise operations and losses on plain ranges; included by the kernel files of each instruction set. */
#include <math.h>

#include "cpu.h"
#include "vec.h"

static void rmsnorm(float *y, int64_t ldy, float *rrms, const float *x, int64_t ldx, const float *gain, double eps,
                    int64_t rows, int64_t n)
{
    for (int64_t t = 0; t < rows; t++, x += ldx, y += ldy) {
        vd acc[2] = {{0}, {0}};
#define SQUARE(i, c)                    \
    do {                                \
        const vf v_ = get(x + (i), c); \
        vdot(acc, v_, v_);              \
    } while (0)
        EACH(n, SQUARE);
        const double r = 1 / sqrt(dsum(acc[0] + acc[1]) / (double)n + eps);
        rrms[t] = (float)r;
#define APPLY(i, c) put(y + (i), get(x + (i), c) * vset((float)r) * get(gain + (i), c), c)
        EACH(n, APPLY);
    }
}

static void rmsnorm_dx(float *dx, int64_t lddx, bool add, const float *dy, int64_t lddy, const float *x, int64_t ldx,
                       const float *rrms, const float *gain, int64_t rows, int64_t n)
{
    for (int64_t t = 0; t < rows; t++, x += ldx, dy += lddy, dx += lddx) {
        vd acc[2] = {{0}, {0}};
#define DOT(i, c) vdot(acc, get(gain + (i), c) * get(dy + (i), c), get(x + (i), c))
        EACH(n, DOT);
        const double r = (double)rrms[t];
        const vf vr = vset((float)r), f = vset((float)(-r * r * r * dsum(acc[0] + acc[1]) / (double)n));
#define VALUE(i, c) vfma(vr *get(gain + (i), c), get(dy + (i), c), f * get(x + (i), c))
#define STORE(i, c) put(dx + (i), VALUE(i, c), c)
#define STORE_ADD(i, c) put(dx + (i), get(dx + (i), c) + VALUE(i, c), c)
        if (add)
            EACH(n, STORE_ADD);
        else
            EACH(n, STORE);
    }
}

static void column_sums(float *out, const float *dy, int64_t lddy, const float *x, int64_t ldx, const float *r,
                        int64_t rows, int64_t n)
{
    vd acc[SQ_STRIP / HALF] = {{0}};
    for (int64_t t = 0; t < rows; t++) {
#define SUM(i, c)                                                         \
    do {                                                                  \
        vf v_ = get(dy + t * lddy + (i), c);                             \
        if (x)                                                            \
            v_ = v_ * get(x + t * ldx + (i), c) * vset(r[t]);             \
        acc[(i) / HALF] += vlow(v_);                                      \
        acc[(i) / HALF + 1] += vhigh(v_);                                 \
    } while (0)
        EACH(n, SUM);
    }
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)((double)out[i] + acc[i / HALF][i % HALF]);
}

static void rope(float *y, const float *x, const float *cos, const float *sin, int64_t first, int64_t rows,
                 int64_t tokens, int64_t heads, int64_t dim, bool inverse)
{
    const int64_t half = dim / 2;
    for (int64_t t = first; t < first + rows; t++)
        for (int64_t h = 0; h < heads; h++) {
            const float *a = x + (t * heads + h) * dim, *b = a + half;
            float *to = y + (t * heads + h) * dim;
            const float *ct = cos + t % tokens * half, *st = sin + t % tokens * half;
#define TURN(i, c)                                                        \
    do {                                                                  \
        const vf co_ = get(ct + (i), c), si_ = get(st + (i), c);         \
        const vf s_ = inverse ? -si_ : si_;                              \
        const vf u_ = get(a + (i), c), w_ = get(b + (i), c);             \
        put(to + (i), vfma(u_, co_, -w_ * s_), c);                        \
        put(to + half + (i), vfma(w_, co_, u_ * s_), c);                  \
    } while (0)
            EACH(half, TURN);
        }
}

VEC_INLINE vf sigmoid(vf x)
{
    return vset(1) / (vset(1) + vexp(-x));
}

static void swiglu(float *y, const float *gate, const float *up, int64_t n)
{
#define SWIGLU(i, c)                                                      \
    do {                                                                  \
        const vf g_ = get(gate + (i), c);                                \
        put(y + (i), g_ * sigmoid(g_) * get(up + (i), c), c);             \
    } while (0)
    EACH(n, SWIGLU);
}

static void swiglu_grad(float *dgate, float *dup, float *y, const float *dy, const float *gate, const float *up,
                        int64_t n)
{
#define SWIGLU_GRAD(i, c)                                                             \
    do {                                                                              \
        const vf g_ = get(gate + (i), c), u_ = get(up + (i), c), d_ = get(dy + (i), c); \
        const vf s_ = sigmoid(g_), y_ = g_ * s_;                                     \
        put(dgate + (i), d_ * u_ * vfma(y_, vset(1) - s_, s_), c);                    \
        put(dup + (i), d_ * y_, c);                                                   \
        if (y)                                                                        \
            put(y + (i), y_ * u_, c);                                                 \
    } while (0)
    EACH(n, SWIGLU_GRAD);
}

static void add(float *y, const float *x, int64_t n)
{
#define ADD(i, c) put(y + (i), get(y + (i), c) + get(x + (i), c), c)
    EACH(n, ADD);
}

static void scale(float *y, const float *x, float a, int64_t n)
{
#define SCALE(i, c) put(y + (i), get(x + (i), c) * vset(a), c)
    EACH(n, SCALE);
}

static float dot(const float *a, const float *b, int64_t n)
{
    vd acc[2] = {{0}, {0}};
#define PRODUCT(i, c) vdot(acc, get(a + (i), c), get(b + (i), c))
    EACH(n, PRODUCT);
    return (float)dsum(acc[0] + acc[1]);
}

static void adamw(float *x, float *m, float *v, const float *g, int64_t n, double root2, double rate)
{
    const vf b1 = vset(0.9f), b2 = vset(0.999f), c1 = vset((float)(1 - 0.9)), c2 = vset((float)(1 - 0.999));
    const vf inv = vset((float)(1 / root2)), step = vset((float)rate);
#define ADAMW(i, c)                                                       \
    do {                                                                  \
        const vf g_ = get(g + (i), c);                                   \
        const vf m_ = vfma(b1, get(m + (i), c), c1 * g_);                \
        const vf v_ = vfma(b2, get(v + (i), c), c2 * g_ * g_);           \
        put(m + (i), m_, c);                                              \
        put(v + (i), v_, c);                                              \
        put(x + (i), get(x + (i), c) - m_ / vfma(vsqrt(v_), inv, vset(1e-8f)) * step, c); \
    } while (0)
    EACH(n, ADAMW);
}

/* ---- losses: everything about probabilities in double, as a small divergence is a difference of large numbers ---- */

static float row_max(const float *x, int64_t n)
{
    vf top = vset(-INFINITY);
    float max = -INFINITY;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        top = vmax(vload(x + i), top);
    for (; i < n; i++)
        max = fmaxf(max, x[i]);
    for (int j = 0; j < LANES; j++)
        max = fmaxf(max, top[j]);
    return max;
}

static double log_sum(const float *x, int64_t n, float max)
{
    vd acc[2] = {{0}, {0}};
    const vd top = dset((double)max);
    double sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vf v = vload(x + i);
        acc[0] += dexp(vlow(v) - top);
        acc[1] += dexp(vhigh(v) - top);
    }
    for (; i < n; i++)
        sum += exp((double)x[i] - (double)max);
    return (double)max + log(dsum(acc[0] + acc[1]) + sum);
}

static double nll(const float *logits, int64_t target, int64_t vocab)
{
    return log_sum(logits, vocab, row_max(logits, vocab)) - (double)logits[target];
}

static int64_t first_equal(const float *x, int64_t n, float value)
{
    int64_t i = 0;
    while (i < n && !(x[i] == value))
        i++;
    return i;
}

static double kl(uint8_t *same_top, const float *logits, const float *base, int64_t vocab)
{
    const float maxx = row_max(logits, vocab), maxy = row_max(base, vocab);
    const double lx = log_sum(logits, vocab, maxx), ly = log_sum(base, vocab, maxy);
    vd acc[2] = {{0}, {0}};
    double sum = 0;
    int64_t i = 0;
    for (; i + LANES <= vocab; i += LANES) {
        const vf x = vload(logits + i), y = vload(base + i);
        const vd p0 = vlow(y) - dset(ly), p1 = vhigh(y) - dset(ly);
        acc[0] += dexp(p0) * (p0 - (vlow(x) - dset(lx)));
        acc[1] += dexp(p1) * (p1 - (vhigh(x) - dset(lx)));
    }
    for (; i < vocab; i++) {
        const double p = (double)base[i] - ly;
        sum += exp(p) * (p - ((double)logits[i] - lx));
    }
    *same_top = first_equal(logits, vocab, maxx) == first_equal(base, vocab, maxy);
    return dsum(acc[0] + acc[1]) + sum;
}
