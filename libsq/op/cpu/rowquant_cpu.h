/* The row quantizers on the CPU: the reference's bits, vectors and threads over rows. Private to op and its
 * tests. */
#ifndef SQ_ROWQUANT_CPU_H
#define SQ_ROWQUANT_CPU_H

#include "sq/rowquant.h"
#include "sq/tensor.h"

void sq_rowquant_cpu(float *y, const float *z, const struct sq_rowq *p, const float *u, const float *l,
                     int64_t rows, int64_t cols);
void sq_rowquant_grad_cpu(float *dz, float *du, float *dl, const float *dy, const float *z,
                          const struct sq_rowq *p, const float *u, const float *l, int64_t rows,
                          int64_t cols);
void sq_rowquant_encode_cpu(struct sq_codes *to, const float *z, const struct sq_rowq *p, const float *u,
                            const float *l, int64_t rows, int64_t cols);
void sq_rowquant_search_cpu(float *u, float *l, struct sq_floats z, const float *weight, const struct sq_rowq *p,
                            int64_t rows, int64_t cols);

#endif
