/* The table of a device: every operation is the one of sq/device.h on the one device of this process. What that needs
 * of workspace grows here, when it is first asked for. */
#include "device_ops.h"

#include <stdio.h>
#include <string.h>

#include "sq/device.h"

static const struct sq_device *lib;
static const struct sq_device_ops *op;
static struct sq_gpu *gpu;

/* What the host lends for one operation: it is copied there, and used from there, in order. */
struct stage {
    void *x;
    size_t bytes;
};
static struct stage floats, weights;

static int failure(int rc)
{
    return rc < 0 ? sq_fail((enum sq_err)rc, "%s", lib->error(gpu)) : 0;
}

/* A failure is kept by the device. */
static bool space(size_t bytes)
{
    return lib->space(gpu, bytes) == 0;
}

static void *staged(struct stage *s, const void *host, size_t bytes)
{
    if (bytes > s->bytes) {
        (void)lib->sync(gpu);
        lib->free(gpu, s->x);
        *s = (struct stage){0};
        if (lib->alloc(gpu, &s->x, bytes) < 0)
            return NULL;
        s->bytes = bytes;
    }
    if (host)
        lib->put(gpu, SQ_QUEUE_WORK, s->x, host, bytes);
    return s->x;
}

/* ---- memory ---- */

static int memory_alloc(void **out, size_t bytes)
{
    const int rc = lib->alloc(gpu, out, bytes);
    if (rc == 0)
        lib->fill(gpu, SQ_QUEUE_WORK, *out, 0, bytes);
    return failure(rc);
}

static void memory_release(void *x)
{
    if (!x)
        return;
    (void)lib->sync(gpu);
    lib->free(gpu, x);
}

static int64_t memory_room(void)
{
    struct sq_gpu_info info;
    lib->info(gpu, &info);
    return info.bytes > 0 ? info.free_bytes : INT64_MAX;
}

static void memory_clear(void *x, size_t bytes)
{
    lib->fill(gpu, SQ_QUEUE_WORK, x, 0, bytes);
}

static void memory_copy(void *to, const void *from, size_t bytes)
{
    if (to != from)
        lib->copy(gpu, SQ_QUEUE_WORK, to, from, bytes);
}

static void memory_put(void *to, const void *host, size_t bytes)
{
    lib->put(gpu, SQ_QUEUE_WORK, to, host, bytes);
}

static int memory_wait(void)
{
    return failure(lib->sync(gpu));
}

static int memory_get(void *host, const void *from, size_t bytes)
{
    lib->get(gpu, SQ_QUEUE_WORK, host, from, bytes);
    return memory_wait();
}

static void widen(float *y, struct sq_floats x, int64_t n)
{
    if (x.type == SQ_F32)
        memory_copy(y, x.x, (size_t)n * sizeof *y);
    else
        op->widen(gpu, y, x.x, n);
}

static void narrow(struct sq_floats y, const float *x, int64_t n)
{
    if (y.type == SQ_F32)
        memory_copy(y.x, x, (size_t)n * sizeof *x);
    else
        op->narrow(gpu, y.x, x, n);
}

static void round_floats(float *x, enum sq_dtype type, int64_t n)
{
    if (type != SQ_F32)
        op->round(gpu, x, n);
}

static void from_host(float *y, struct sq_floats host, int64_t n)
{
    if (host.type == SQ_F32) {
        memory_put(y, host.x, (size_t)n * sizeof *y);
        return;
    }
    const void *x = staged(&floats, host.x, (size_t)n * sq_dtype_size(host.type));
    if (x)
        op->widen(gpu, y, x, n);
}

static void to_host(struct sq_floats host, const float *x, int64_t n)
{
    const size_t bytes = (size_t)n * sq_dtype_size(host.type);
    const void *from = x;
    if (host.type != SQ_F32) {
        void *y = staged(&floats, NULL, bytes);
        if (!y)
            return;
        op->narrow(gpu, y, x, n);
        from = y;
    }
    lib->get(gpu, SQ_QUEUE_WORK, host.x, from, bytes);
    (void)lib->sync(gpu);
}

/* ---- operations ---- */

static void gemm(float *c, int64_t ldc, struct sq_mat a, struct sq_mat b, int64_t m, int64_t n, int64_t k, bool add,
                 bool round_bf16)
{
    if (space(4 * (size_t)(m * k + k * n) + 512))
        op->gemm(gpu, c, ldc, a, b, m, n, k, add, round_bf16);
}

static void gemm_codes(float *y, int64_t ldy, const float *base, const struct sq_codes *a, const struct sq_codes *b,
                       int64_t m, int64_t n)
{
    op->gemm_codes(gpu, y, ldy, base, a, b, m, n);
}

static void rmsnorm(float *y, int64_t ldy, float *rrms, const float *x, int64_t ldx, const float *gain, double eps,
                    int64_t rows, int64_t n)
{
    op->rmsnorm(gpu, y, ldy, rrms, x, ldx, gain, eps, rows, n);
}

static void rmsnorm_grad(float *dx, int64_t lddx, bool add, float *dgain, const float *dy, int64_t lddy, const float *x,
                         int64_t ldx, const float *rrms, const float *gain, int64_t rows, int64_t n)
{
    if (space(sq_gpu_column_space(n)))
        op->rmsnorm_grad(gpu, dx, lddx, add, dgain, dy, lddy, x, ldx, rrms, gain, rows, n);
}

static void rope(float *x, const float *cos, const float *sin, int64_t rows, int64_t tokens, int64_t heads, int64_t dim,
                 bool inverse)
{
    op->rope(gpu, x, cos, sin, rows, tokens, heads, dim, inverse);
}

static void swiglu(float *y, const float *gate, const float *up, int64_t n)
{
    op->swiglu(gpu, y, gate, up, n);
}

static void swiglu_grad(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t n)
{
    op->swiglu_grad(gpu, dgate, dup, dy, gate, up, n);
}

static void attention(float *out, float *lse, const float *q, const float *k, const float *v, int64_t batch,
                      int64_t tokens, int64_t heads, int64_t kv, int64_t dim)
{
    op->attention(gpu, out, lse, q, k, v, batch, tokens, heads, kv, dim);
}

static void attention_grad(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse,
                           const float *q, const float *k, const float *v, int64_t batch, int64_t tokens, int64_t heads,
                           int64_t kv, int64_t dim)
{
    if (space(4 * (size_t)(batch * tokens * heads)))
        op->attention_grad(gpu, dq, dk, dv, dout, out, lse, q, k, v, batch, tokens, heads, kv, dim);
}

static void add(float *y, const float *x, int64_t n)
{
    op->add(gpu, y, x, n);
}

static void bias(float *y, const float *b, int64_t rows, int64_t n)
{
    op->bias(gpu, y, b, rows, n);
}

static void bias_grad(float *dbias, const float *dy, int64_t rows, int64_t n)
{
    if (space(sq_gpu_column_space(n)))
        op->bias_grad(gpu, dbias, dy, rows, n);
}

static void adamw(float *x, float *m, float *v, const float *g, int64_t n, int64_t step, double lr)
{
    op->adamw(gpu, x, m, v, g, n, step, lr);
}

static void project(float *x, float least, int64_t n)
{
    op->project(gpu, x, least, n);
}

static void not_finite(double *count, const float *x, int64_t n)
{
    if (space(SQ_GPU_COUNT_SPACE))
        op->not_finite(gpu, count, x, n);
}

static void square_sums(double *sum, const float *x, int64_t rows, int64_t n)
{
    if (space(sq_gpu_column_space(n)))
        op->column_sums(gpu, sum, x, true, rows, n);
}

static void loss(double *sum, float *dy, const float *y, struct sq_floats target, const double *weight, int64_t tokens,
                 int64_t n, double scale)
{
    const void *t = staged(&floats, target.x, (size_t)(tokens * n) * sq_dtype_size(target.type));
    const double *w = staged(&weights, weight, (size_t)tokens * sizeof *weight);
    if (t && w && space(8 * (size_t)tokens))
        op->loss(gpu, sum, dy, y, t, target.type, w, tokens, n, scale);
}

static void fold(const struct sq_fold_args *a)
{
    op->fold(gpu, a);
}

static void fold_grad(float *dw, float *du, float *dl, float *da, float *db, float *dc, float *dr,
                      const struct sq_fold_args *a)
{
    if (space(sq_gpu_column_space(5 * a->cols)))
        op->fold_grad(gpu, dw, du, dl, da, db, dc, dr, a);
}

static void spread(float *y, const float *base, const float *x, const int32_t *map, bool inverse, int64_t n)
{
    op->spread(gpu, y, base, x, map, inverse, n);
}

static void collect(float *dx, const float *dy, const float *base, const float *x, const int32_t *first,
                    const int32_t *from, bool inverse, int64_t m)
{
    op->collect(gpu, dx, dy, base, x, first, from, inverse, m);
}

static void rowquant(float *y, const float *z, const struct sq_rowq *p, const float *u, const float *l, int64_t rows,
                     int64_t cols)
{
    op->rowquant(gpu, y, z, p, u, l, rows, cols);
}

static void rowquant_grad(float *dz, float *du, float *dl, const float *dy, const float *z, const struct sq_rowq *p,
                          const float *u, const float *l, int64_t rows, int64_t cols)
{
    op->rowquant_grad(gpu, dz, du, dl, dy, z, p, u, l, rows, cols);
}

static void rowquant_encode(struct sq_codes *to, const float *z, const struct sq_rowq *p, const float *u,
                            const float *l, int64_t rows, int64_t cols)
{
    op->rowquant_encode(gpu, to, z, p, u, l, rows, cols);
}

static void rowquant_error(double *err, const float *z, const float *weight, const struct sq_rowq *p,
                           const float *scale, const float *zero, int64_t tries, int64_t n)
{
    op->rowquant_error(gpu, err, z, weight, p, scale, zero, 1, tries, n);
}

static void nll(double *y, const float *logits, const int32_t *target, int64_t rows, int64_t vocab)
{
    op->nll(gpu, y, logits, target, rows, vocab);
}

static void kl(double *y, uint8_t *same_top, const float *logits, const float *base, int64_t rows, int64_t vocab)
{
    op->kl(gpu, y, same_top, logits, base, rows, vocab);
}

static const struct sq_ops table = {
    .alloc = memory_alloc,
    .release = memory_release,
    .room = memory_room,
    .clear = memory_clear,
    .copy = memory_copy,
    .put = memory_put,
    .get = memory_get,
    .wait = memory_wait,
    .widen = widen,
    .narrow = narrow,
    .round = round_floats,
    .from_host = from_host,
    .to_host = to_host,
    .gemm = gemm,
    .gemm_codes = gemm_codes,
    .rmsnorm = rmsnorm,
    .rmsnorm_grad = rmsnorm_grad,
    .rope = rope,
    .swiglu = swiglu,
    .swiglu_grad = swiglu_grad,
    .attention = attention,
    .attention_grad = attention_grad,
    .add = add,
    .bias = bias,
    .bias_grad = bias_grad,
    .adamw = adamw,
    .project = project,
    .not_finite = not_finite,
    .square_sums = square_sums,
    .loss = loss,
    .fold = fold,
    .fold_grad = fold_grad,
    .spread = spread,
    .collect = collect,
    .rowquant = rowquant,
    .rowquant_grad = rowquant_grad,
    .rowquant_encode = rowquant_encode,
    .rowquant_error = rowquant_error,
    .nll = nll,
    .kl = kl,
};

static int open_device(int device)
{
    char why[256] = "";
    int rc;
    if (gpu)
        return 0;
    rc = sq_device_load(&lib, false);
    if (rc < 0)
        return sq_fail_in(rc, "--backend cuda cannot run");
    op = lib->ops;
    rc = lib->open(&gpu, device, why, sizeof why);
    return rc < 0 ? sq_fail((enum sq_err)rc, "--backend cuda cannot run: %s", why) : 0;
}

int sq_device_fill(struct sq_ops *ops, int device)
{
    struct sq_gpu_info info;
    const struct sq_ops filled = *ops;
    const int rc = open_device(device);
    if (rc < 0)
        return rc;
    lib->info(gpu, &info);
    *ops = table;
    ops->precision = filled.precision;
    ops->host = filled.host;
    ops->name = lib->name;
    snprintf(ops->isa, sizeof ops->isa, "sm_%d, %.40s", info.capability, info.name);
    return memory_wait();
}
