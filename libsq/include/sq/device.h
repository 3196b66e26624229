/* sq/device.h - operations on an accelerator: a table of functions from a library that is opened at run time
 *
 * Two libraries are made of the same sources (libsq/op/cuda): libsq_cuda.so by nvcc, and libsq_emu.so by the C++
 * compiler, which runs the same kernels on the processor, slowly, for tests. Neither prints or exits; only the emulator
 * aborts, with a table, on a kernel that no GPU could run (libsq/op/cuda/simt.h). */
#ifndef SQ_DEVICE_H
#define SQ_DEVICE_H

#include "sq/base.h"
#include "sq/op.h"
#include "sq/rowquant.h"
#include "sq/tensor.h"

SQ_BEGIN_DECLS

#define SQ_DEVICE_ABI   8
#define SQ_DEVICE_ENTRY "sq_device_entry"

/* One opened device: two streams, marks in them, a workspace, the first error. Not for several threads at a time; CUDA's state does
 * not survive a fork. */
struct sq_gpu;

/* Operations queue on the stream of work, copies on either; within a stream all is in order. */
enum sq_queue { SQ_QUEUE_WORK, SQ_QUEUE_COPY };
enum { SQ_GPU_MARKS = 64, SQ_GPU_RECORDINGS = 4 };

struct sq_gpu_info {
    char name[128];
    int capability;      /* 80: sm_80 */
    int driver, runtime; /* 13000: CUDA 13.0 */
    int64_t bytes, free_bytes;
    int64_t processors;
    int64_t later_bytes;     /* of free_bytes: what the runtime takes as it goes, for code, spilled registers, recordings */
    /* by data sheet, 0: unknown: of its memory; of products of bf16, sums in f32 */
    double bytes_per_second, flops_per_second;
};

/* What a device computes. All arrays are in device memory, f32 row-major unless said otherwise; shapes, aliasing and
 * meaning are those of struct sq_ops where the name is the same. An operation only queues: the first failure is kept,
 * later operations do nothing, sync() returns it. Every result is the same for the same device type, run after run:
 * sums have a fixed order, there are no float atomics. A struct sq_floats may be bf16 anywhere. Workspace (space() below)
 * is stated where an operation needs any. */
struct sq_device_ops {
    /* Workspace: f32 operands that are rounded to bf16, or bf16 ones that meet unrounded f32, are converted first:
     * 4 (M K + K N) + 256 bytes at most. */
    void (*gemm)(struct sq_gpu *g, float *c, int64_t ldc, struct sq_mat a, struct sq_mat b, int64_t m, int64_t n,
                 int64_t k, bool add, bool round_bf16);
    /* the structs lie on the host, their arrays on the device */
    void (*gemm_codes)(struct sq_gpu *g, float *y, int64_t ldy, const float *base, const struct sq_codes *a,
                       const struct sq_codes *b, int64_t m, int64_t n);

    void (*rmsnorm)(struct sq_gpu *g, struct sq_floats y, int64_t ldy, float *rrms, const float *x, int64_t ldx,
                    const float *gain, double eps, int64_t rows, int64_t n);
    /* Workspace with dgain: column sums of n. */
    void (*rmsnorm_grad)(struct sq_gpu *g, float *dx, int64_t lddx, bool add, float *dgain, const float *dy,
                         int64_t lddy, const float *x, int64_t ldx, const float *rrms, const float *gain, int64_t rows,
                         int64_t n);
    void (*rope)(struct sq_gpu *g, struct sq_floats y, const float *x, const float *cos, const float *sin, int64_t rows,
                 int64_t tokens, int64_t heads, int64_t dim, bool inverse);
    void (*swiglu)(struct sq_gpu *g, struct sq_floats y, const float *gate, const float *up, int64_t n);
    void (*swiglu_grad)(struct sq_gpu *g, struct sq_floats dgate, struct sq_floats dup, struct sq_floats y,
                        const float *dy, const float *gate, const float *up, int64_t n);
    /* D above 256: SQ_E_UNSUP. bf16: on devices from sm_80 on, with D at most 128, operands are rounded first: to two
     * numbers of bf16 (16 bits), those of dout v' and of dv to one. */
    void (*attention)(struct sq_gpu *g, float *out, float *lse, const float *q, const float *k, const float *v,
                      int64_t batch, int64_t tokens, int64_t heads, int64_t kv, int64_t dim, bool bf16);
    /* Workspace: 4 B T H bytes. */
    void (*attention_grad)(struct sq_gpu *g, float *dq, float *dk, float *dv, const float *dout, const float *out,
                           const float *lse, const float *q, const float *k, const float *v, int64_t batch,
                           int64_t tokens, int64_t heads, int64_t kv, int64_t dim, bool bf16);
    void (*add)(struct sq_gpu *g, float *y, const float *x, int64_t n);
    void (*bias)(struct sq_gpu *g, float *y, const float *bias, int64_t rows, int64_t n);
    /* Workspace: column sums of n. */
    void (*bias_grad)(struct sq_gpu *g, float *dbias, const float *dy, int64_t rows, int64_t n);
    void (*adamw)(struct sq_gpu *g, float *x, float *m, float *v, const float *grad, int64_t n, int64_t step,
                  double lr);

    /* y, codes and errors have the reference's bits wherever sigma(u) has (exp in double may differ in its last bit,
     * which a rounding to float hides but once in 2^28); so have dz but for the share that the extremes of a row get,
     * du and dl being sums. */
    void (*rowquant)(struct sq_gpu *g, struct sq_floats y, const float *z, const struct sq_rowq *p, const float *u,
                     const float *l, int64_t rows, int64_t cols);
    void (*rowquant_grad)(struct sq_gpu *g, float *dz, float *du, float *dl, const float *dy, const float *z,
                          const struct sq_rowq *p, const float *u, const float *l, int64_t rows, int64_t cols);
    void (*rowquant_encode)(struct sq_gpu *g, struct sq_codes *to, const float *z, const struct sq_rowq *p,
                            const float *u, const float *l, int64_t rows, int64_t cols);
    /* z of type f32 or bf16; the reference's bits */
    void (*rowquant_search)(struct sq_gpu *g, float *u, float *l, const void *z, enum sq_dtype type,
                            const float *weight, const struct sq_rowq *p, int64_t rows, int64_t cols);
    void (*nll)(struct sq_gpu *g, double *nll, const float *logits, const int32_t *target, int64_t rows, int64_t vocab);
    void (*kl)(struct sq_gpu *g, double *kl, uint8_t *same_top, const float *logits, const float *base, int64_t rows,
               int64_t vocab);

    /* ---- what a step needs that stays on the device ---- */

    /* y[n] = x, and back, rounded to nearest even; a NaN stays one (sq_bf16_widen, sq_bf16_narrow); as if both, in place */
    void (*widen)(struct sq_gpu *g, float *y, const uint16_t *x, int64_t n);
    void (*narrow)(struct sq_gpu *g, uint16_t *y, const float *x, int64_t n);
    void (*round)(struct sq_gpu *g, float *x, int64_t n);
    void (*project)(struct sq_gpu *g, float *x, float least, int64_t n);
    /* Workspace: SQ_GPU_COUNT_SPACE. */
    void (*not_finite)(struct sq_gpu *g, double *count, const float *x, int64_t n);
    /* y[i,:] = x[pick[i],:] as f32, rows of n values of type f32 or bf16; pick [rows] */
    void (*gather)(struct sq_gpu *g, float *y, const void *x, enum sq_dtype type, const int64_t *pick, int64_t rows,
                   int64_t n);
    /* sum[i] += sum over rows of x[:,i] (squared: of its squares); sum f64 [n]. Workspace: column sums of n. */
    void (*column_sums)(struct sq_gpu *g, double *sum, const float *x, bool squared, int64_t rows, int64_t n);
    /* The window's loss (struct sq_ops): *sum += sum over tokens of weight[i] |y[i,:] - t[i,:]|^2,
     * dy (or NULL; may be y) = 2 weight[i] scale (y - t); target [tokens, hidden] of type f32 or bf16; sum, weight f64.
     * Workspace: 8 bytes a token. */
    void (*loss)(struct sq_gpu *g, double *sum, float *dy, const float *y, const void *target, enum sq_dtype type,
                 const double *weight, int64_t tokens, int64_t hidden, double scale);

    /* The pass over a linear's weights, docs/method.md 3 and 1 (libsq/quant/fold.c), on rows of it:
     *   W~ = W diag(c) diag(r) + (1/rank) B A, in this order of operations, then the quantizer with u, l
     * to, dw, W, c, A lie at multiples of 16 bytes, or SQ_E_ARG; to, W [rows, cols] of their types (f32 or bf16), to may
     * be W. Everything has the reference's bits, as rowquant has. */
    void (*fold)(struct sq_gpu *g, const struct sq_fold_args *a);
    /* Its backward, from dw [rows, cols] f32, the gradient at the rounded weights, which becomes that at W~ (G):
     *   du, dl  overwritten, as rowquant_grad has them (NULL when u, l are)
     *   db[i,t] = sum over j of G[i,j] A[t,j] / rank, overwritten      da[t,j] += sum over i of B[i,t] G[i,j] / rank
     *   dr[i] = sum over j of G[i,j] W[i,j] c[j], overwritten          dc[j] += sum over i of r[i] G[i,j] W[i,j]
     * da and dc are added to, so that the rows of a linear may come in pieces (the same pieces, the same bytes); db, da
     * are NULL when rank is 0, dr and dc when not wanted; c or r NULL count as ones. Where weights are rounded a->ends
     * are those of the fold, or SQ_E_ARG.
     * Workspace: column sums of 5 cols. */
    void (*fold_grad)(struct sq_gpu *g, float *dw, float *du, float *dl, float *da, float *db, float *dc, float *dr,
                      const struct sq_fold_args *a);
    /* From a vector of channel scales to what is scaled with it, through map [n] -> index of x (q heads share a value,
     * pairs of RoPE do, a gain and a linear's columns have one each): y[i] = base[i] x[map[i]], or base[i] / x[map[i]]
     * if inverse; base NULL: 1. y may be base. */
    void (*spread)(struct sq_gpu *g, float *y, const float *base, const float *x, const int32_t *map, bool inverse,
                   int64_t n);
    /* Its gradient: dx[k] += sum over i = from[first[k]] ... from[first[k+1] - 1], in this order, of dy[i] base[i], or
     * of -dy[i] base[i] / x[k]^2. first [m + 1], from [n] list for every k the i with map[i] == k. */
    void (*collect)(struct sq_gpu *g, float *dx, const float *dy, const float *base, const float *x,
                    const int32_t *first, const int32_t *from, bool inverse, int64_t m);
    /* SQ_E_UNSUP for an order that sq_hadamard_order() refuses. */
    void (*hadamard)(struct sq_gpu *g, float *y, const float *x, const float *sign, int64_t rows, int64_t n);

    /* ---- layers with experts ---- */

    void (*softmax)(struct sq_gpu *g, float *p, int64_t rows, int64_t n);
    void (*choose)(struct sq_gpu *g, const struct sq_routing *r);
    /* Workspace: column sums of E. */
    void (*assign)(struct sq_gpu *g, const struct sq_routing *r);
    void (*route_grad)(struct sq_gpu *g, float *dlogit, const double *dshare, const struct sq_routing *r);
    void (*scatter)(struct sq_gpu *g, float *y, bool add, const float *x, const float *scale, const int64_t *pick,
                    int64_t rows, int64_t top, int64_t n);
    void (*scale_rows)(struct sq_gpu *g, float *x, const float *scale, int64_t rows, int64_t n);
    void (*row_dots)(struct sq_gpu *g, double *dot, const float *a, const float *b, int64_t rows, int64_t n);
};

enum { SQ_GPU_COUNT_SPACE = 1 << 14 };
enum { SQ_GPU_BF16 = 80 };             /* capability from which on there are units for bf16 */
enum { SQ_GPU_BLAS_SPACE = 32 << 20 }; /* cuBLAS's own, from the first product on */

/* Workspace for column sums of n columns. */
static inline size_t sq_gpu_column_space(int64_t n)
{
    return (size_t)(n > 0 ? n : 0) * 256 * sizeof(float);
}

/* What the entry symbol returns: constant, valid while the library is open. */
struct sq_device {
    uint32_t abi, size; /* SQ_DEVICE_ABI, the size of this and of *ops together: another one is refused */
    const char *name;   /* "cuda", "emu" */
    /* How many devices there are; 0: why says why not. */
    int (*count)(char *why, size_t n);
    /* 0 or enum sq_err, with a text in why. A closed handle is NULL; what was allocated with it is freed by its owner
     * before. */
    int (*open)(struct sq_gpu **out, int device, char *why, size_t n);
    void (*close)(struct sq_gpu **g);
    void (*info)(struct sq_gpu *g, struct sq_gpu_info *out);
    /* Device memory, 256-byte aligned, not cleared; pinned: the host's, for copies that run beside work. SQ_E_NOMEM. */
    int (*alloc)(struct sq_gpu *g, void **out, size_t bytes);
    int (*alloc_pinned)(struct sq_gpu *g, void **out, size_t bytes);
    void (*free)(struct sq_gpu *g, void *p);
    void (*free_pinned)(struct sq_gpu *g, void *p);
    /* The workspace of all operations, at least this large from now on; waits for the device when it grows. */
    int (*space)(struct sq_gpu *g, size_t bytes);
    /* Queued; host memory must stay as it is, or is not there yet, until sync(), or reach() of a mark behind it. Device
     * memory that is freed is used by nothing that is queued. */
    void (*put)(struct sq_gpu *g, enum sq_queue q, void *to, const void *host, size_t bytes);
    void (*get)(struct sq_gpu *g, enum sq_queue q, void *host, const void *from, size_t bytes);
    void (*copy)(struct sq_gpu *g, enum sq_queue q, void *to, const void *from, size_t bytes);
    void (*fill)(struct sq_gpu *g, enum sq_queue q, void *to, int byte, size_t bytes);
    /* A mark stands behind what is on a stream now, wherever it stood before. What is queued from now on waits for it;
     * the host waits for it: 0 or the first failure. A mark that never stood anywhere is reached. */
    void (*mark)(struct sq_gpu *g, int mark, enum sq_queue q);
    void (*after)(struct sq_gpu *g, enum sq_queue q, int mark);
    int (*reach)(struct sq_gpu *g, int mark);
    /* Waits for both streams; 0 or the first failure since open, an enum sq_err. */
    int (*sync)(struct sq_gpu *g);
    /* Work that repeats. From record() to recorded() operations are kept, not queued: no copies of the host's, marks or
     * waiting meanwhile, and no larger workspace. replay() queues them again, with the same arrays; false: there is no
     * such recording. */
    void (*record)(struct sq_gpu *g);
    void (*recorded)(struct sq_gpu *g, int recording);
    bool (*replay)(struct sq_gpu *g, int recording);
    void (*forget)(struct sq_gpu *g); /* all of them */
    /* The text of that failure, "" if there was none; valid until close. */
    const char *(*error)(const struct sq_gpu *g);
    /* Forgets it, where the device still works (an operation's refusal, memory that ran out). */
    void (*clear)(struct sq_gpu *g);
    const struct sq_device_ops *ops;
};

typedef const struct sq_device *sq_device_entry_fn(void);

/* The N of "cuda:N", 0 of NULL; SQ_E_ARG. */
int sq_device_number(int *out, const char *text) SQ_MUSTUSE;
/* Opens the library and looks at its table: `emulate` takes libsq_emu.so, else $SQ_CUDA_LIB or libsq_cuda.so, from
 * ../lib/sq beside the program, never from the working directory. The library stays open. SQ_E_UNSUP when it is not
 * there or of another version. */
int sq_device_load(const struct sq_device **out, bool emulate) SQ_MUSTUSE;

/* How much device memory, and as much pinned memory of the host's, copies of at most so many bytes at a time take that run
 * beside work (struct sq_ops: from_host, to_host, loss). */
int64_t sq_device_copies_bytes(int64_t most);

/* ---- every operation beside the reference ---- */

/* One operation on one shape. */
struct sq_device_result {
    const char *op;
    char shape[96];
    double nmse, limit;  /* the worst of its outputs, as a part of its limit: of those with the largest quotient */
    double seconds;      /* of a run on a large shape; 0: not measured */
    double bytes, flops; /* that such a run moves and computes */
    const char *fault;   /* NULL: passed; else what is wrong */
};

typedef int sq_device_report(void *ctx, const struct sq_device_result *r);

/* once: every shape; repeated: the same bytes run after run, too (emulated: in several orders of threads); timed: and how
 * long a large shape of each takes */
enum sq_device_depth { SQ_CHECK_ONCE, SQ_CHECK_REPEATED, SQ_CHECK_TIMED };

/* Runs the table of operations, shapes and types whose name begins with `only` (NULL: all): guarded buffers, results
 * against the reference within derived limits. Negative when the device itself fails, or what a report returns; whether
 * results agree is in the reports. */
int sq_device_check(const struct sq_device *d, struct sq_gpu *g, const char *only, enum sq_device_depth depth,
                    sq_device_report *report, void *ctx) SQ_MUSTUSE;

SQ_END_DECLS
#endif
