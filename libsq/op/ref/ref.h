/* The reference operations of sq/op.h: plain loops, sums in double, one thread. Private to op and its tests.
 *
 * tests/ops/test_grad.c compiles these sources a second time with `float` defined as `double`, to compare gradients
 * with central differences: so no literal or call here may depend on the width of float. */
#ifndef SQ_OP_REF_H
#define SQ_OP_REF_H

#include "sq/op.h"

void sq_gemm_ref(float *c, int64_t ldc, struct sq_mat a, struct sq_mat b, int64_t m, int64_t n, int64_t k, bool add,
                 bool round_bf16);
void sq_gemm_codes_ref(float *y, int64_t ldy, const float *base, const struct sq_codes *a, const struct sq_codes *b,
                       int64_t m, int64_t n);
void sq_rmsnorm_ref(float *y, int64_t ldy, float *rrms, const float *x, int64_t ldx, const float *gain, double eps,
                    int64_t rows, int64_t n);
void sq_rmsnorm_grad_ref(float *dx, int64_t lddx, bool add, float *dgain, const float *dy, int64_t lddy,
                         const float *x, int64_t ldx, const float *rrms, const float *gain, int64_t rows, int64_t n);
void sq_rope_ref(float *y, const float *x, const float *cos, const float *sin, int64_t rows, int64_t tokens,
                 int64_t heads, int64_t dim, bool inverse);
void sq_swiglu_ref(float *y, const float *gate, const float *up, int64_t n);
void sq_swiglu_grad_ref(float *dgate, float *dup, float *y, const float *dy, const float *gate, const float *up,
                        int64_t n);
void sq_attention_ref(float *out, float *lse, const float *q, const float *k, const float *v, int64_t batch,
                      int64_t tokens, int64_t heads, int64_t kv, int64_t dim);
void sq_attention_grad_ref(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse,
                           const float *q, const float *k, const float *v, int64_t batch, int64_t tokens,
                           int64_t heads, int64_t kv, int64_t dim);
void sq_add_ref(float *y, const float *x, int64_t n);
void sq_bias_ref(float *y, const float *bias, int64_t rows, int64_t n);
void sq_bias_grad_ref(float *dbias, const float *dy, int64_t rows, int64_t n);
void sq_hadamard_ref(float *y, const float *x, const float *sign, int64_t rows, int64_t n);
void sq_adamw_ref(float *x, float *m, float *v, const float *g, int64_t n, int64_t step, double lr);
void sq_rowquant_search_ref(float *u, float *l, struct sq_floats z, const float *weight, const struct sq_rowq *p,
                            int64_t rows, int64_t cols);
int sq_memory_alloc_ref(void **out, size_t bytes);
int64_t sq_memory_room_ref(void);
void sq_memory_clear_ref(void *x, size_t bytes);
void sq_memory_copy_ref(void *to, const void *from, size_t bytes);
int sq_memory_get_ref(void *host, const void *from, size_t bytes);
int sq_memory_wait_ref(void);
void sq_widen_ref(float *y, struct sq_floats x, int64_t n);
void sq_expect_ref(struct sq_floats x, int64_t n);
bool sq_replay_ref(enum sq_part part, int64_t key);
void sq_recorded_ref(enum sq_part part);
void sq_forget_ref(void);
void sq_narrow_ref(struct sq_floats y, const float *x, int64_t n);
void sq_round_ref(float *x, enum sq_dtype type, int64_t n);
void sq_project_ref(float *x, float least, int64_t n);
void sq_not_finite_ref(double *count, const float *x, int64_t n);
void sq_square_sums_ref(double *sum, const float *x, int64_t rows, int64_t n);
void sq_loss_ref(double *sum, float *dy, const float *y, struct sq_floats target, const double *weight, int64_t tokens,
                 int64_t n, double scale);
void sq_softmax_ref(float *p, int64_t rows, int64_t n);
void sq_choose_ref(const struct sq_routing *r);
void sq_assign_ref(const struct sq_routing *r);
void sq_route_grad_ref(float *dlogit, const double *dshare, const struct sq_routing *r);
void sq_gather_ref(float *y, const float *x, const int64_t *pick, int64_t rows, int64_t n);
void sq_scatter_ref(float *y, bool add, const float *x, const float *scale, const int64_t *pick, int64_t rows,
                    int64_t top, int64_t n);
void sq_scale_rows_ref(float *x, const float *scale, int64_t rows, int64_t n);
void sq_row_dots_ref(double *dot, const float *a, const float *b, int64_t rows, int64_t n);
void sq_nll_ref(double *nll, const float *logits, const int32_t *target, int64_t rows, int64_t vocab);
void sq_kl_ref(double *kl, uint8_t *same_top, const float *logits, const float *base, int64_t rows, int64_t vocab);

#endif
