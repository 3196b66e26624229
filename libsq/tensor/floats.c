#include <string.h>

#include "sq/tensor.h"

enum { PIECE = 1 << 15 }; /* what a thread takes at a time */

struct sq_floats sq_floats_from(struct sq_floats a, int64_t first)
{
    a.x = (char *)a.x + (size_t)first * sq_dtype_size(a.type);
    return a;
}

void sq_floats_get(float *out, struct sq_floats a, int64_t n)
{
    SQ_ASSERT(a.type == SQ_F32 || a.type == SQ_BF16);
#pragma omp parallel for schedule(static) if (n > PIECE)
    for (int64_t i = 0; i < n; i += PIECE) {
        const int64_t some = SQ_MIN(PIECE, n - i);
        const void *from = sq_floats_from(a, i).x;
        if (a.type == SQ_F32)
            memcpy(out + i, from, (size_t)some * sizeof *out);
        else
            sq_bf16_widen(out + i, from, some);
    }
}

void sq_floats_put(struct sq_floats a, const float *x, int64_t n)
{
    SQ_ASSERT(a.type == SQ_F32 || a.type == SQ_BF16);
#pragma omp parallel for schedule(static) if (n > PIECE)
    for (int64_t i = 0; i < n; i += PIECE) {
        const int64_t some = SQ_MIN(PIECE, n - i);
        void *to = sq_floats_from(a, i).x;
        if (a.type == SQ_F32)
            memcpy(to, x + i, (size_t)some * sizeof *x);
        else
            sq_bf16_narrow(to, x + i, some);
    }
}

void sq_floats_round(float *x, enum sq_dtype type, int64_t n)
{
    SQ_ASSERT(type == SQ_F32 || type == SQ_BF16);
    if (type == SQ_F32)
        return;
#pragma omp parallel for schedule(static) if (n > PIECE)
    for (int64_t i = 0; i < n; i++)
        x[i] = sq_bf16_to_f32(sq_f32_to_bf16(x[i]));
}
