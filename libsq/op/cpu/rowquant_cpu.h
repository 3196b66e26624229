/* The row quantizers on the CPU: the reference's bits, vectors and threads over rows. Private to op and its
 * tests. */
#ifndef SQ_ROWQUANT_CPU_H
#define SQ_ROWQUANT_CPU_H

#include "sq/rowquant.h"

void sq_rowquant_cpu(float *y, const float *z, const struct sq_rowq *p, const float *u, const float *l,
                     int64_t rows, int64_t cols);
void sq_rowquant_grad_cpu(float *dz, float *du, float *dl, const float *dy, const float *z,
                          const struct sq_rowq *p, const float *u, const float *l, int64_t rows,
                          int64_t cols);
void sq_rowquant_encode_cpu(struct sq_codes *to, const float *z, const struct sq_rowq *p, const float *u,
                            const float *l, int64_t rows, int64_t cols);
void sq_rowquant_error_cpu(double *err, const float *z, const float *weight, const struct sq_rowq *p,
                           const float *scale, const float *zero, int64_t tries, int64_t n);

#endif
