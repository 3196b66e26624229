/* sq/op.h - the table of operations: the processor's is the reference's, overridden where there is something faster; a
 * device has one of its own
 *
 * Shapes: T tokens, C channels, H heads, KV key/value heads, D head dim, F ffn, V vocab, R rows out,
 * K columns in, G groups. All arrays f32 row-major unless said otherwise; outputs may not alias inputs unless said.
 *
 * Nothing is allocated by an operation: workspace is reserved as address space by sq_ops_get and touched as needed
 * (products: up to 32 MiB for the process, attention: up to 16 MiB a thread); only oneDNN keeps code for each shape it
 * met. Operations use omp_get_max_threads() threads where the work is large; they may be called from several threads
 * of a program, products and attention then take turns. Results do not depend on the number of threads; they do on the
 * instruction set and libraries, which `isa` names:
 *   SQ_ISA           in the environment: sq/isa.h
 *   BLIS_ARCH_TYPE   BLIS's own choice of a kernel set
 *   OMP_WAIT_POLICY=passive   no effect on results; kinder where several programs share the processors */
#ifndef SQ_OP_H
#define SQ_OP_H

#include "sq/base.h"
#include "sq/rowquant.h"
#include "sq/tensor.h"

SQ_BEGIN_DECLS

enum sq_backend { SQ_BACKEND_AUTO, SQ_BACKEND_REF, SQ_BACKEND_CPU, SQ_BACKEND_CUDA };
enum sq_precision { SQ_BF16_PRODUCTS, SQ_F32_PRODUCTS };
/* of a training step: what repeats with the same arrays and shapes */
enum sq_part { SQ_PART_FOLD, SQ_PART_FORWARD, SQ_PART_BACKWARD, SQ_PARTS };

/* A matrix as it lies in memory, f32 or bf16: x[i * ld + j] is its element (i, j), or (j, i) if transposed. Borrowed. */
struct sq_mat {
    const void *x;
    int64_t ld;
    bool transposed;
    enum sq_dtype type;
};

static inline struct sq_mat sq_mat(const float *x, int64_t ld, bool transposed)
{
    const struct sq_mat m = {x, ld, transposed, SQ_F32};
    return m;
}

/* A linear's rows for fold and fold_grad: the struct is the host's, its arrays are where those of the operations lie. */
struct sq_fold_args {
    void *to; /* fold only */
    enum sq_dtype to_type;
    struct sq_codes *code; /* fold only: codes too, as rowquant_encode makes them (one group a row); NULL: not wanted */
    const void *w;
    enum sq_dtype w_type;
    const float *c, *r; /* [cols], [rows] or NULL */
    const float *a, *b; /* [rank, cols], [rows, rank] */
    int64_t rank;
    const float *u, *l; /* [rows, G] or NULL */
    struct sq_rowq q;   /* bits >= 16: not rounded */
    float *ends;        /* [rows, G, 2] max and min of W~'s groups, where it is rounded: fold writes them, NULL: not wanted;
                         * fold_grad reads those of the fold of the same arguments */
    int64_t rows, cols;
};

/* Which tokens go to which experts: N tokens, E experts, a slot for each of a token's `top` experts, S = N top slots, sorted
 * by expert, then by token. The struct is the host's, its arrays are where those of the operations lie. Borrowed. */
struct sq_routing {
    int64_t tokens, experts, top; /* N, E, 1 <= top <= E */
    bool renorm;                  /* shares are divided by their sum over a token */
    float *prob;                  /* [N,E] softmax of the router's products */
    int32_t *chosen;              /* [N,top] experts of a token, ascending */
    int64_t *slot;                /* [N,top] their slots */
    int64_t *token;               /* [S] the token of a slot */
    int64_t *begin;               /* [E+1] first slot of each expert */
    float *share;                 /* [S] weight of a slot */
};

struct sq_ops {
    const char *name;            /* "ref", "cpu", "cuda", "emu" */
    char isa[64];                /* instruction set and product library in force: "avx2 blis", recorded in provenance */
    enum sq_precision precision; /* of products between weights and activations */
    const struct sq_ops *host;   /* the table for arrays in the process's memory: this one, unless a device computes */

    /* ---- memory ----
     * The arrays of all operations lie where alloc() puts them: in the process's memory, or a device's. What is called
     * the host's is the process's. A device only queues: its first failure stays, what comes later does nothing, and
     * wait() and get() return it. */
    int (*alloc)(void **out, size_t bytes); /* zeroed; SQ_E_NOMEM */
    void (*release)(void *x);
    /* Bytes that were free before the first alloc, so that a second pass does not count against itself what the first one
     * keeps. INT64_MAX: not known. */
    int64_t (*room)(void);
    void (*clear)(void *x, size_t bytes);
    void (*copy)(void *to, const void *from, size_t bytes);
    void (*put)(void *to, const void *host, size_t bytes); /* host memory stays as it is until wait() */
    int (*get)(void *host, const void *from, size_t bytes);
    int (*wait)(void);
    /* y[n] = x; back, rounded to the type; both in place */
    void (*widen)(float *y, struct sq_floats x, int64_t n);
    void (*narrow)(struct sq_floats y, const float *x, int64_t n);
    void (*round)(float *x, enum sq_dtype type, int64_t n);
    /* The same from and to numbers of the host's, which are there after wait(). expect: from_host will ask for these
     * next; until then, or forget(), they stay as they are. */
    void (*from_host)(float *y, struct sq_floats host, int64_t n);
    void (*to_host)(struct sq_floats host, const float *x, int64_t n);
    void (*expect)(struct sq_floats host, int64_t n);

    /* A part of a step that comes again and again: if replay() is true, the device does what it did for this part and
     * key before; if not, the caller calls its operations, and recorded() behind them, in any case. Only operations, no
     * from_host, get, wait. forget() when an array goes or shapes change. The processor repeats nothing. */
    bool (*replay)(enum sq_part part, int64_t key);
    void (*recorded)(enum sq_part part);
    void (*forget)(void);

    /* C[M,N] = A B (+ C if add), A [M,K], B [K,N]; C's rows are ldc apart. Operands are rounded to bf16 first when
     * round_bf16; products are summed in f32 (the reference: in double). Any size may be 0. */
    void (*gemm)(float *c, int64_t ldc, struct sq_mat a, struct sq_mat b, int64_t m, int64_t n, int64_t k, bool add,
                 bool round_bf16);

    /* y[M,N] = A B' (+ base if it is not NULL; rows of both are ldy apart, base may not be y) of codes: the integers are
     * multiplied and added exactly, scales and zero points applied to the sum in double. a [M,K], b [N,K]; K is the
     * number of rounded channels, the same in both. sq_codes_multiply() must hold.
     * fast_codes: this is faster than gemm on the rounded floats here.
     * narrows: gemm rounds a float operand in a pass of its own, so one that several products need is better narrowed
     * before them, once, or written as bf16 by what makes it: an output of type struct sq_floats may be bf16 then, the f32
     * rounded to nearest even. Else it is f32. */
    void (*gemm_codes)(float *y, int64_t ldy, const float *base, const struct sq_codes *a, const struct sq_codes *b,
                       int64_t m, int64_t n);
    bool fast_codes, narrows;

    /* y[t,:] = gain * x[t,:] / rms, rms = sqrt(mean x^2 + eps); rrms[t] = 1 / rms is kept for the gradient.
     * Rows are ldx, ldy apart, so that heads are normalised in place of a [T, H*D] array: y.x == x allowed, as f32. */
    void (*rmsnorm)(struct sq_floats y, int64_t ldy, float *rrms, const float *x, int64_t ldx, const float *gain,
                    double eps, int64_t rows, int64_t n);
    /* dx (+)= , dgain[n] += unless it is NULL; dx == dy allowed when !add */
    void (*rmsnorm_grad)(float *dx, int64_t lddx, bool add, float *dgain, const float *dy, int64_t lddy, const float *x,
                         int64_t ldx, const float *rrms, const float *gain, int64_t rows, int64_t n);

    /* y, x [B*T, heads*D], D even, y.x == x allowed, as f32; position of row i is i % T; channel c pairs with c + D/2.
     * cos, sin [T, D/2]. inverse: the transposed rotation, which is the gradient. */
    void (*rope)(struct sq_floats y, const float *x, const float *cos, const float *sin, int64_t rows, int64_t tokens,
                 int64_t heads, int64_t dim, bool inverse);

    /* y = silu(gate) * up, and its gradient (dgate, dup of one type, overwritten; as f32 they may alias gate, up) with
     * swiglu's y, bit by bit, unless y.x is NULL (as f32 it may be dy) */
    void (*swiglu)(struct sq_floats y, const float *gate, const float *up, int64_t n);
    void (*swiglu_grad)(struct sq_floats dgate, struct sq_floats dup, struct sq_floats y, const float *dy,
                        const float *gate, const float *up, int64_t n);

    /* Causal attention of B samples of T tokens: q, out [B*T, H*D], k, v [B*T, KV*D]; query head h reads kv
     * head h / (H/KV); scores scaled by D^-1/2. lse [B, H, T] = log-sum-exp of each row of scores, kept for the
     * gradient, which recomputes the probabilities. No T x T array. Where products are bf16 a device may round
     * their operands to two numbers of bf16, those of dout v' and dv to one. */
    void (*attention)(float *out, float *lse, const float *q, const float *k, const float *v, int64_t batch,
                      int64_t tokens, int64_t heads, int64_t kv, int64_t dim);
    /* dq, dk, dv overwritten */
    void (*attention_grad)(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse,
                           const float *q, const float *k, const float *v, int64_t batch, int64_t tokens,
                           int64_t heads, int64_t kv, int64_t dim);

    /* y += x */
    void (*add)(float *y, const float *x, int64_t n);
    /* y[i,:] += bias, and dbias += column sums of dy */
    void (*bias)(float *y, const float *bias, int64_t rows, int64_t n);
    void (*bias_grad)(float *dbias, const float *dy, int64_t rows, int64_t n);

    /* y[i,:] = (sign * x[i,:]) H / sqrt(n), H a Hadamard matrix of order n = 2^k m (docs/method.md 8): Paley's H_m, or 1,
     * (x) H_2^k in Sylvester's order. sign [n] or NULL: ones. sq_hadamard_order(n) must be 0. For rotations; no program uses
     * it yet. */
    void (*hadamard)(float *y, const float *x, const float *sign, int64_t rows, int64_t n);

    /* One AdamW step, weight decay 0, step counted from 1; m, v are the moments. beta 0.9, 0.999, eps 1e-8:
     * x -= (m / (sqrt(v) / sqrt(1 - beta2^step) + eps)) * lr / (1 - beta1^step) */
    void (*adamw)(float *x, float *m, float *v, const float *g, int64_t n, int64_t step, double lr);

    /* x[i] kept away from 0: |x[i]| >= least, the sign kept, 0 counts as + */
    void (*project)(float *x, float least, int64_t n);
    /* *count += how many of x are NaN or Inf */
    void (*not_finite)(double *count, const float *x, int64_t n);
    /* sum[j] += sum over rows of x[:,j]^2 */
    void (*square_sums)(double *sum, const float *x, int64_t rows, int64_t n);
    /* The window's loss: *sum += sum over tokens of weight[i] |y[i,:] - t[i,:]|^2,
     * dy (or NULL; may be y) = 2 weight[i] scale (y - t). Target [tokens, n] and weight are the host's. */
    void (*loss)(double *sum, float *dy, const float *y, struct sq_floats target, const double *weight, int64_t tokens,
                 int64_t n, double scale);

    /* The pass over a linear's weights, its backward, and what moves scales to where they are used and gradients back:
     * sq/device.h says what they compute. NULL where libsq/quant/fold.c does it, strip by strip. */
    void (*fold)(const struct sq_fold_args *a);
    void (*fold_grad)(float *dw, float *du, float *dl, float *da, float *db, float *dc, float *dr,
                      const struct sq_fold_args *a);
    void (*spread)(float *y, const float *base, const float *x, const int32_t *map, bool inverse, int64_t n);
    void (*collect)(float *dx, const float *dy, const float *base, const float *x, const int32_t *first,
                    const int32_t *from, bool inverse, int64_t m);

    /* Layers with experts. softmax: rows of n, in place. choose: prob -> chosen, the largest, of equal ones those of the
     * lower experts, NaN last. assign: chosen and prob -> slot, token, begin, share. The last two have the same bits on
     * every backend. */
    void (*softmax)(float *p, int64_t rows, int64_t n);
    void (*choose)(const struct sq_routing *r);
    void (*assign)(const struct sq_routing *r);
    /* Gradient of the shares, dshare [S], -> of the router's products, dlogit [N,E], overwritten. */
    void (*route_grad)(float *dlogit, const double *dshare, const struct sq_routing *r);
    /* Rows of n: y[i,:] = x[pick[i],:], pick [rows];
     * y[i,:] (+)= sum over k < top of scale[s] x[s,:], s = pick[i,k], one after the other in f32; scale NULL: 1;
     * x[i,:] *= scale[i]; dot[i] = <a[i,:], b[i,:]> */
    void (*gather)(float *y, const float *x, const int64_t *pick, int64_t rows, int64_t n);
    void (*scatter)(float *y, bool add, const float *x, const float *scale, const int64_t *pick, int64_t rows,
                    int64_t top, int64_t n);
    void (*scale_rows)(float *x, const float *scale, int64_t rows, int64_t n);
    void (*row_dots)(double *dot, const float *a, const float *b, int64_t rows, int64_t n);

    /* Row-wise weight and token quantizers with their gradients: see rowquant.h. */
    void (*rowquant)(struct sq_floats y, const float *z, const struct sq_rowq *p, const float *u, const float *l,
                     int64_t rows, int64_t cols);
    void (*rowquant_grad)(float *dz, float *du, float *dl, const float *dy, const float *z, const struct sq_rowq *p,
                          const float *u, const float *l, int64_t rows, int64_t cols);
    void (*rowquant_encode)(struct sq_codes *to, const float *z, const struct sq_rowq *p, const float *u,
                            const float *l, int64_t rows, int64_t cols);
    /* Where clipping starts: u, l [rows, G], the logits (at most 8) of the two factors of every group whose rounding
     * error, sum over its channels of weight[j] (z - rounded z)^2, is the least that a search over the lattice of 1/160
     * finds; equal ones when symmetric. z [rows, cols], weight [cols] or NULL: ones. The reference's bits on every
     * backend. */
    void (*rowquant_search)(float *u, float *l, struct sq_floats z, const float *weight, const struct sq_rowq *p,
                            int64_t rows, int64_t cols);

    /* nll[i] = -log softmax(logits[i,:])[target[i]] in double; and per row KL(base || logits) and argmax agreement */
    void (*nll)(double *nll, const float *logits, const int32_t *target, int64_t rows, int64_t vocab);
    void (*kl)(double *kl, uint8_t *same_top, const float *logits, const float *base, int64_t rows, int64_t vocab);
};

/* 0 when there is a Hadamard matrix of this order here: n = 2^k m up to 2^20, m 1 or 4 times an odd number up to 63
 * but 23, 29, 39, 43, 47, 59; else SQ_E_UNSUP. */
int sq_hadamard_order(int64_t n) SQ_MUSTUSE;

/* A table for the backend (auto: the fastest that this processor runs) at the given precision; *out is process-wide and
 * constant; SQ_ISA is read by the first call. SQ_E_UNSUP when a named backend or SQ_ISA cannot run here, SQ_E_ARG for an
 * unknown SQ_ISA, SQ_E_NOMEM without address space for the workspace.
 * cuda: one device a process, the first unless sq_ops_of() met another; one thread at a time. */
int sq_ops_get(const struct sq_ops **out, enum sq_backend backend, enum sq_precision precision) SQ_MUSTUSE;
struct sq_app;
/* --backend auto of a program that can use a device becomes cuda where there is one, and every operation of it agrees with
 * the reference on small shapes, which takes about a second. Why not is logged: at info when there is none, else as a warning. */
void sq_ops_choose(struct sq_app *app);
/* sq_ops_get() of what --backend and --device of a program say. */
int sq_ops_of(const struct sq_ops **out, const struct sq_app *app, enum sq_precision precision) SQ_MUSTUSE;

SQ_END_DECLS
#endif
