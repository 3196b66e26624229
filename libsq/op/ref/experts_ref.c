/* Layers with experts: routing, its gradient, and rows between tokens and slots. */
#include "ref.h"

#include <math.h>
#include <string.h>

void sq_softmax_ref(float *p, int64_t rows, int64_t n)
{
    for (int64_t i = 0; i < rows; i++) {
        float *x = p + i * n;
        double max = -HUGE_VAL, sum = 0;
        for (int64_t e = 0; e < n; e++)
            max = fmax(max, (double)x[e]);
        for (int64_t e = 0; e < n; e++)
            sum += exp((double)x[e] - max);
        for (int64_t e = 0; e < n; e++)
            x[e] = (float)(exp((double)x[e] - max) / sum);
    }
}

/* NaN comes behind all probabilities. */
static float rank_of(float p)
{
    return p >= 0 ? p : -1;
}

static bool before(const float *p, int64_t a, int64_t b)
{
    const float x = rank_of(p[a]), y = rank_of(p[b]);
    return x > y || (x == y && a < b);
}

/* All that do not come behind the last one of the top. */
static void choose_row(int32_t *chosen, const float *p, int64_t experts, int64_t top)
{
    int64_t last = -1;
    for (int64_t k = 0; k < top; k++) {
        int64_t best = -1;
        for (int64_t e = 0; e < experts; e++)
            if ((last < 0 || before(p, last, e)) && (best < 0 || before(p, e, best)))
                best = e;
        last = best;
    }
    for (int64_t e = 0; e < experts; e++)
        if (!before(p, last, e))
            *chosen++ = (int32_t)e;
}

void sq_choose_ref(const struct sq_routing *r)
{
    for (int64_t i = 0; i < r->tokens; i++)
        choose_row(r->chosen + i * r->top, r->prob + i * r->experts, r->experts, r->top);
}

void sq_assign_ref(const struct sq_routing *r)
{
    const int64_t E = r->experts, top = r->top, slots = r->tokens * top;
    memset(r->begin, 0, (size_t)(E + 1) * sizeof *r->begin);
    for (int64_t i = 0; i < slots; i++)
        r->begin[r->chosen[i] + 1]++;
    for (int64_t e = 0; e < E; e++)
        r->begin[e + 1] += r->begin[e];
    for (int64_t i = 0; i < slots; i++)
        r->slot[i] = r->begin[r->chosen[i]]++;
    memmove(r->begin + 1, r->begin, (size_t)E * sizeof *r->begin); /* each start has moved to its end */
    r->begin[0] = 0;
    for (int64_t i = 0; i < r->tokens; i++) {
        double sum = 0;
        for (int64_t k = 0; k < top; k++)
            sum += (double)r->prob[i * E + r->chosen[i * top + k]];
        for (int64_t k = 0; k < top; k++) {
            const int64_t s = r->slot[i * top + k];
            const float p = r->prob[i * E + r->chosen[i * top + k]];
            r->share[s] = r->renorm ? (float)((double)p / sum) : p;
            r->token[s] = i;
        }
    }
}

/* d/dp of p_k / sum(p) is (dshare_k - <dshare, share>) / sum, of p_k itself dshare_k */
static void route_grad_row(float *dlogit, const double *dshare, const struct sq_routing *r, int64_t i)
{
    const float *p = r->prob + i * r->experts;
    const int32_t *chosen = r->chosen + i * r->top;
    const int64_t *slot = r->slot + i * r->top;
    double sum = 0, mean = 0, inner = 0;
    for (int64_t k = 0; k < r->top; k++) {
        sum += (double)p[chosen[k]];
        mean += dshare[slot[k]] * (double)r->share[slot[k]];
    }
    const double scale = r->renorm ? 1 / sum : 1, shift = r->renorm ? mean : 0;
    for (int64_t k = 0; k < r->top; k++)
        inner += (double)p[chosen[k]] * (dshare[slot[k]] - shift) * scale;
    for (int64_t e = 0; e < r->experts; e++)
        dlogit[e] = (float)(-(double)p[e] * inner);
    for (int64_t k = 0; k < r->top; k++)
        dlogit[chosen[k]] += (float)((double)p[chosen[k]] * (dshare[slot[k]] - shift) * scale);
}

void sq_route_grad_ref(float *dlogit, const double *dshare, const struct sq_routing *r)
{
    for (int64_t i = 0; i < r->tokens; i++)
        route_grad_row(dlogit + i * r->experts, dshare, r, i);
}

void sq_gather_ref(float *y, const float *x, const int64_t *pick, int64_t rows, int64_t n)
{
    for (int64_t i = 0; i < rows; i++)
        memcpy(y + i * n, x + pick[i] * n, (size_t)n * sizeof *y);
}

void sq_scatter_ref(float *y, bool add, const float *x, const float *scale, const int64_t *pick, int64_t rows,
                    int64_t top, int64_t n)
{
    for (int64_t i = 0; i < rows; i++) {
        float *row = y + i * n;
        if (!add)
            memset(row, 0, (size_t)n * sizeof *row);
        for (int64_t k = 0; k < top; k++) {
            const int64_t s = pick[i * top + k];
            const float w = scale ? scale[s] : 1;
            for (int64_t c = 0; c < n; c++)
                row[c] += w * x[s * n + c];
        }
    }
}

void sq_scale_rows_ref(float *x, const float *scale, int64_t rows, int64_t n)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < n; c++)
            x[i * n + c] *= scale[i];
}

void sq_row_dots_ref(double *dot, const float *a, const float *b, int64_t rows, int64_t n)
{
    for (int64_t i = 0; i < rows; i++) {
        double sum = 0;
        for (int64_t c = 0; c < n; c++)
            sum += (double)a[i * n + c] * (double)b[i * n + c];
        dot[i] = sum;
    }
}
