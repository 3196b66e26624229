/* What a training step needs besides its layers: memory, conversions, the loss, sums over what is learned. */
#include "ref.h"

#include <math.h>
#include <string.h>

int sq_memory_alloc_ref(void **out, size_t bytes)
{
    return sq_alloc_bytes(out, (int64_t)bytes, 1);
}

int64_t sq_memory_room_ref(void)
{
    return INT64_MAX;
}

void sq_memory_clear_ref(void *x, size_t bytes)
{
    if (bytes)
        memset(x, 0, bytes);
}

void sq_memory_copy_ref(void *to, const void *from, size_t bytes)
{
    if (bytes && to != from)
        memcpy(to, from, bytes);
}

int sq_memory_get_ref(void *host, const void *from, size_t bytes)
{
    sq_memory_copy_ref(host, from, bytes);
    return 0;
}

int sq_memory_wait_ref(void)
{
    return 0;
}

/* Nothing is on its way: arrays are read where they are, operations run when they are called. */
void sq_expect_ref(struct sq_floats x, int64_t n)
{
    (void)x;
    (void)n;
}

bool sq_replay_ref(enum sq_part part, int64_t key)
{
    (void)part;
    (void)key;
    return false;
}

void sq_recorded_ref(enum sq_part part)
{
    (void)part;
}

void sq_forget_ref(void)
{
}

void sq_widen_ref(float *y, struct sq_floats x, int64_t n)
{
    sq_floats_get(y, x, n);
}

void sq_narrow_ref(struct sq_floats y, const float *x, int64_t n)
{
    sq_floats_put(y, x, n);
}

void sq_round_ref(float *x, enum sq_dtype type, int64_t n)
{
    sq_floats_round(x, type, n);
}

void sq_project_ref(float *x, float least, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] < 0 ? SQ_MIN(x[i], -least) : SQ_MAX(x[i], least);
}

void sq_not_finite_ref(double *count, const float *x, int64_t n)
{
    int64_t odd = 0;
    for (int64_t i = 0; i < n; i++)
        odd += !isfinite(x[i]);
    *count += (double)odd;
}

void sq_square_sums_ref(double *sum, const float *x, int64_t rows, int64_t n)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j++)
            sum[j] += (double)x[i * n + j] * (double)x[i * n + j];
}

enum { PIECE = 512 }; /* channels widened at a time */

/* The squared error of n channels; dy (may be NULL) = slope times the error */
static double square_error(float *dy, const float *y, struct sq_floats t, int64_t n, double slope)
{
    float wide[PIECE];
    double sum = 0;
    for (int64_t at = 0; at < n; at += PIECE) {
        const int64_t some = SQ_MIN(PIECE, n - at);
        sq_floats_get(wide, sq_floats_from(t, at), some);
        for (int64_t i = 0; i < some; i++) {
            const double d = (double)y[at + i] - (double)wide[i];
            sum += d * d;
            if (dy)
                dy[at + i] = (float)(slope * d);
        }
    }
    return sum;
}

void sq_loss_ref(double *sum, float *dy, const float *y, struct sq_floats target, const double *weight, int64_t tokens,
                 int64_t n, double scale)
{
    double all = 0;
    for (int64_t i = 0; i < tokens; i++)
        all += weight[i] * square_error(dy ? dy + i * n : NULL, y + i * n, sq_floats_from(target, i * n), n,
                                        2 * weight[i] * scale);
    *sum += all;
}
