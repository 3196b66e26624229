#include "rowquant_cpu.h"

#include "../rowquant_search.h"
#include "cpu.h"

/* Rows are independent, so any cut into pieces gives the same bytes; a piece is worth a few microseconds. */
enum { PIECE = 1 << 14 };

static int64_t piece_rows(int64_t cols)
{
    return SQ_MAX(1, PIECE / SQ_MAX(1, cols));
}

void sq_rowquant_cpu(float *y, const float *z, const struct sq_rowq *p, const float *u, const float *l,
                     int64_t rows, int64_t cols)
{
    const int64_t step = piece_rows(cols), groups = sq_rowq_groups(p, cols);
#pragma omp parallel for schedule(static) if (rows > step)
    for (int64_t i = 0; i < rows; i += step)
        sq_vec->rowquant(y + i * cols, z + i * cols, p, u ? u + i * groups : NULL, l ? l + i * groups : NULL,
                         SQ_MIN(step, rows - i), cols);
}

void sq_rowquant_grad_cpu(float *dz, float *du, float *dl, const float *dy, const float *z,
                          const struct sq_rowq *p, const float *u, const float *l, int64_t rows, int64_t cols)
{
    const int64_t step = piece_rows(cols), groups = sq_rowq_groups(p, cols);
#pragma omp parallel for schedule(static) if (rows > step)
    for (int64_t i = 0; i < rows; i += step)
        sq_vec->rowquant_grad(dz + i * cols, du ? du + i * groups : NULL, dl ? dl + i * groups : NULL, dy + i * cols,
                              z + i * cols, p, u ? u + i * groups : NULL, l ? l + i * groups : NULL,
                              SQ_MIN(step, rows - i), cols);
}

void sq_rowquant_encode_cpu(struct sq_codes *to, const float *z, const struct sq_rowq *p, const float *u,
                            const float *l, int64_t rows, int64_t cols)
{
    const int64_t step = piece_rows(cols);
    to->bits = p->bits;
    to->cols = sq_rowq_covered(cols, p->rate);
#pragma omp parallel for schedule(static) if (rows > step)
    for (int64_t i = 0; i < rows; i += step) {
        struct sq_codes part = *to;
        part.q += i * to->ld;
        part.scale += i;
        part.zero += i;
        part.sum += i;
        sq_vec->rowquant_encode(&part, z + i * cols, p, u ? u + i : NULL, l ? l + i : NULL, SQ_MIN(step, rows - i),
                                cols);
    }
}

/* The search of a group is the reference's, its errors are a kernel's. */
void sq_rowquant_search_cpu(float *u, float *l, struct sq_floats z, const float *weight, const struct sq_rowq *p,
                            int64_t rows, int64_t cols)
{
    const int64_t n = cols > 0 ? rows * sq_rowq_groups(p, cols) : 0;
    struct rq_lattice t;
    rq_lattice_init(&t);
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t i = 0; i < n; i++)
        rq_search_group(u, l, i, sq_vec->rowquant_error, z, weight, p, cols, &t);
}
