/* Element-wise operations: RoPE, SwiGLU, sums, biases, AdamW. */
#include "ref.h"

#include <math.h>

void sq_rope_ref(float *y, const float *x, const float *cos, const float *sin, int64_t rows, int64_t tokens,
                 int64_t heads, int64_t dim, bool inverse)
{
    const int64_t half = dim / 2;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t j = 0; j < half; j++) {
                const double c = (double)cos[i % tokens * half + j], s = (double)sin[i % tokens * half + j];
                const int64_t a = (i * heads + h) * dim + j, b = a + half;
                const double u = (double)x[a], w = (double)x[b], turn = inverse ? -s : s;
                y[a] = (float)(u * c - w * turn);
                y[b] = (float)(w * c + u * turn);
            }
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

void sq_swiglu_ref(float *y, const float *gate, const float *up, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)((double)gate[i] * sigmoid((double)gate[i]) * (double)up[i]);
}

/* silu'(g) = s + g s (1 - s), s = sigmoid(g) */
void sq_swiglu_grad_ref(float *dgate, float *dup, float *y, const float *dy, const float *gate, const float *up,
                        int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const double g = (double)gate[i], u = (double)up[i], d = (double)dy[i], s = sigmoid(g);
        dgate[i] = (float)(d * u * (s + g * s * (1 - s)));
        dup[i] = (float)(d * g * s);
        if (y)
            y[i] = (float)(g * s * u);
    }
}

void sq_add_ref(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i];
}

void sq_bias_ref(float *y, const float *bias, int64_t rows, int64_t n)
{
    for (int64_t t = 0; t < rows; t++)
        for (int64_t i = 0; i < n; i++)
            y[t * n + i] += bias[i];
}

void sq_bias_grad_ref(float *dbias, const float *dy, int64_t rows, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double sum = (double)dbias[i];
        for (int64_t t = 0; t < rows; t++)
            sum += (double)dy[t * n + i];
        dbias[i] = (float)sum;
    }
}

void sq_adamw_ref(float *x, float *m, float *v, const float *g, int64_t n, int64_t step, double lr)
{
    const double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
    const double root2 = sqrt(1 - pow(beta2, (double)step)), rate = lr / (1 - pow(beta1, (double)step));
    for (int64_t i = 0; i < n; i++) {
        const double gi = (double)g[i];
        const double mi = beta1 * (double)m[i] + (1 - beta1) * gi, vi = beta2 * (double)v[i] + (1 - beta2) * gi * gi;
        x[i] = (float)((double)x[i] - mi / (sqrt(vi) / root2 + eps) * rate);
        m[i] = (float)mi;
        v[i] = (float)vi;
    }
}
