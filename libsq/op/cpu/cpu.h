/* The parts of the CPU backend. Private to op and its tests.
 *
 * kernels (struct sq_vec, one per instruction set): loops of one thread over plain ranges
 * struct sq_tile: the register tile of the products, BLIS's or our own
 * *_cpu functions: the operations of sq/op.h, our threads over fixed pieces of the work; which thread gets a piece
 * changes nothing in its result */
#ifndef SQ_OP_CPU_H
#define SQ_OP_CPU_H

#include "sq/isa.h"
#include "sq/op.h"

/* ---- products ---- */

/* C[m,n] (+)= sum over p < k of a[p*wr + i] * b[p*wc + j], m <= wr, n <= wc; C's rows are ldc apart. Panels are
 * whole: their rows and columns past m, n are zero. */
struct sq_tile {
    char name[24]; /* "blis-zen3", "own" */
    int64_t wr, wc, kc;
    bool wide; /* the columns' panel is the wider one: it stays in L2 while the rows' panel stays in L1 */
    void (*mul)(float *c, int64_t ldc, const float *a, const float *b, int64_t m, int64_t n, int64_t k, bool add);
};

/* ---- kernels of one instruction set ---- */

struct sq_vec {
    const char *name; /* "base", "avx2", "avx512" */
    struct sq_tile tile;

    /* Panels of w vectors, one after the other: dst[i / w * w * k + p * w + i % w] = src[i * vs + p * ks] for the n
     * vectors of k elements, rounded to bf16 if asked; the last panel is filled with zeros. vs or ks is 1. */
    void (*pack)(float *dst, int64_t w, const float *src, int64_t vs, int64_t ks, int64_t n, int64_t k, bool round);

    void (*widen)(float *out, const uint16_t *x, int64_t n); /* bf16 to f32 */

    /* As in sq/op.h, on the rows or elements given. */
    void (*rmsnorm)(float *y, int64_t ldy, float *rrms, const float *x, int64_t ldx, const float *gain, double eps,
                    int64_t rows, int64_t n);
    void (*rmsnorm_dx)(float *dx, int64_t lddx, bool add, const float *dy, int64_t lddy, const float *x, int64_t ldx,
                       const float *rrms, const float *gain, int64_t rows, int64_t n);
    /* out[i] += sum over rows of dy[t,i] (* x[t,i] * r[t] unless x is NULL), in double; n <= SQ_STRIP */
    void (*column_sums)(float *out, const float *dy, int64_t lddy, const float *x, int64_t ldx, const float *r,
                        int64_t rows, int64_t n);
    /* rows first ... first + rows - 1 of x */
    void (*rope)(float *y, const float *x, const float *cos, const float *sin, int64_t first, int64_t rows,
                 int64_t tokens, int64_t heads, int64_t dim, bool inverse);
    void (*swiglu)(float *y, const float *gate, const float *up, int64_t n);
    void (*swiglu_grad)(float *dgate, float *dup, float *y, const float *dy, const float *gate, const float *up,
                        int64_t n);
    void (*add)(float *y, const float *x, int64_t n);
    void (*adamw)(float *x, float *m, float *v, const float *g, int64_t n, double root2, double rate);
    double (*nll)(const float *logits, int64_t target, int64_t vocab);
    double (*kl)(uint8_t *same_top, const float *logits, const float *base, int64_t vocab);

    /* Scores of n keys (rows, ld apart) by m queries, transposed so that no sum runs across lanes; ld is a multiple
     * of 16 and all arrays of queries have ld elements. Query i sees key r when r <= i + d; others become 0.
     * softmax: top, sum: running maximum of scale * s and sum of exp; s becomes exp(scale s - top), keep the factor
     * that brings earlier sums to the new maximum.
     * soften: s becomes p = exp(scale s - lse), ds becomes scale p (ds - delta). */
    void (*softmax)(float *s, int64_t ld, int64_t n, int64_t m, int64_t d, float scale, float *top, float *sum,
                    float *keep);
    void (*soften)(float *s, float *ds, int64_t ld, int64_t n, int64_t m, int64_t d, float scale, const float *lse,
                   const float *delta);
    /* y[i] = a b[i]: rescaling of accumulated rows */
    void (*scale)(float *y, const float *x, float a, int64_t n);
    float (*dot)(const float *a, const float *b, int64_t n);

    /* As in sq/rowquant.h, with the reference's bits. */
    void (*rowquant)(float *y, const float *z, const struct sq_rowq *p, const float *u, const float *l, int64_t rows,
                     int64_t cols);
    void (*rowquant_grad)(float *dz, float *du, float *dl, const float *dy, const float *z, const struct sq_rowq *p,
                          const float *u, const float *l, int64_t rows, int64_t cols);
    void (*rowquant_encode)(struct sq_codes *to, const float *z, const struct sq_rowq *p, const float *u,
                            const float *l, int64_t rows, int64_t cols);
    void (*rowquant_error)(double *err, const float *z, const float *weight, const struct sq_rowq *p,
                           const float *scale, const float *zero, int64_t tries, int64_t n);
};

enum { SQ_STRIP = 64 };

extern const struct sq_vec sq_vec_base;
#if defined __x86_64__
extern const struct sq_vec sq_vec_avx2, sq_vec_avx512;
#endif
const struct sq_vec *sq_vec_of(enum sq_isa isa);

/* BLIS's own micro-kernel for this processor; SQ_E_UNSUP when its shape cannot be used, it was not built in, or it needs
 * more than `most`. */
int sq_tile_blis(struct sq_tile *out, enum sq_isa most) SQ_MUSTUSE;

/* oneDNN's products. *unit: the processor's unit for bf16 products that it would use ("dnnl-amx", "dnnl-bf16"), or NULL.
 * Nothing beyond `most`, which holds for the process. SQ_E_UNSUP when it was not built in. */
int sq_onednn_open(const char **unit, enum sq_isa most) SQ_MUSTUSE;
/* As gemm with operands rounded to bf16, or, for tests, not. SQ_E_UNSUP, with C as it was, when the library
 * refuses. The caller holds the workspace's lock. */
int sq_gemm_onednn(float *c, int64_t ldc, struct sq_mat a, struct sq_mat b, int64_t m, int64_t n, int64_t k, bool add,
                   bool bf16) SQ_MUSTUSE;

/* C[m,n] = sums of a[i,:] b[j,:], exact where sq_codes_multiply() holds.
 * SQ_E_UNSUP when the library refuses. The caller holds the workspace's lock. */
int sq_gemm_codes_onednn(int32_t *c, int64_t ldc, const uint8_t *a, int64_t lda, const uint8_t *b, int64_t ldb,
                         int64_t m, int64_t n, int64_t k) SQ_MUSTUSE;

/* ---- what is in force; set once by sq_cpu_init, changed by tests only ---- */

extern const struct sq_vec *sq_vec;
extern struct sq_tile sq_tile;
extern const char *sq_bf16_unit; /* that oneDNN uses for rounded operands; NULL: they go through sq_tile */
extern bool sq_codes_unit;       /* oneDNN multiplies codes */

/* Reserve workspace, put these kernels in force, with BLIS and oneDNN as far as `libraries` lets them go (SQ_ISA_BASE:
 * none) and they are there. */
int sq_cpu_init(const struct sq_vec *vec, enum sq_isa libraries) SQ_MUSTUSE;
/* Override the entries of a table that is filled with the reference. */
void sq_cpu_fill(struct sq_ops *ops);

/* ---- workspace: reserved once as address space, touched as needed, so that no operation allocates ---- */

#define SQ_PANELS ((int64_t)4 << 20)  /* floats for the packed panels of either operand */
#define SQ_PRIVATE ((int64_t)4 << 20) /* floats for each thread */
extern int64_t sq_private;            /* how much of that is used: all, but in tests */
extern int64_t sq_partials;           /* of the panels, by attention: likewise */

int sq_space_open(void) SQ_MUSTUSE;
/* One operation at a time may use the workspace; several threads of the program may ask for it. */
void sq_space_lock(void);
void sq_space_unlock(void);
float *sq_space_panels(int which);   /* 0: rows, 1: columns */
float *sq_space_private(int thread); /* of a thread of a parallel region; thread < sq_cpu_threads() */
int sq_cpu_threads(void);            /* omp_get_max_threads(), at most what the workspace is for */

/* ---- operations ---- */

void sq_gemm_cpu(float *c, int64_t ldc, struct sq_mat a, struct sq_mat b, int64_t m, int64_t n, int64_t k, bool add,
                 bool round_bf16);
void sq_gemm_codes_cpu(float *y, int64_t ldy, const float *base, const struct sq_codes *a, const struct sq_codes *b,
                       int64_t m, int64_t n);
void sq_attention_cpu(float *out, float *lse, const float *q, const float *k, const float *v, int64_t batch,
                      int64_t tokens, int64_t heads, int64_t kv, int64_t dim);
void sq_attention_grad_cpu(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse,
                           const float *q, const float *k, const float *v, int64_t batch, int64_t tokens,
                           int64_t heads, int64_t kv, int64_t dim);
void sq_hadamard_cpu(float *y, const float *x, const float *sign, int64_t rows, int64_t n);
void sq_rows_fill(struct sq_ops *ops); /* all others */

#endif
