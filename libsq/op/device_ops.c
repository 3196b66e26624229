/* The table of a device: every operation is the one of sq/device.h on the one device of this process. What that needs
 * of workspace grows here, when it is first asked for; what the host lends or gets goes through device_copies.h. */
#include "device_ops.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "device_copies.h"
#include "sq/fault.h"

static const struct sq_device *lib;
static const struct sq_device_ops *op;
static struct sq_gpu *gpu;
static struct copies copies;
static int64_t room; /* what was free when it was opened, for a window and cuBLAS's workspace */
static bool repeats, bf16_units; /* recordings work */

/* Parts of a step that repeat: when a part comes for the second time with the same key, it is recorded. */
static struct {
    int64_t key;
    enum { UNKNOWN, SEEN, RECORDING, RECORDED } state;
} part[SQ_PARTS];
static_assert((int)SQ_PARTS <= (int)SQ_GPU_RECORDINGS, "a recording for each");

static int failure(int rc)
{
    return rc < 0 ? sq_fail((enum sq_err)rc, "%s", lib->error(gpu)) : 0;
}

/* A failure is kept by the device. */
static bool space(size_t bytes)
{
    return lib->space(gpu, bytes) == 0;
}

/* ---- memory ---- */

static int memory_alloc(void **out, size_t bytes)
{
    int rc;
    *out = NULL;
    if (sq_fault(SQ_FAULT_ALLOC))
        return sq_fail(SQ_E_NOMEM, "no device memory for %zu bytes", bytes);
    rc = lib->alloc(gpu, out, bytes);
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
    return room;
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
    const int rc = lib->sync(gpu);
    copies_arrive(&copies);
    return failure(rc);
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

/* How many of n floats a copy takes. */
static int64_t piece_of(enum sq_dtype type, int64_t n)
{
    return SQ_MIN(n, SQ_COPY_BYTES / (int64_t)sq_dtype_size(type));
}

static void from_host(float *y, struct sq_floats host, int64_t n)
{
    for (int64_t i = 0, m; i < n; i += m) {
        m = piece_of(host.type, n - i);
        struct copy_slot *s = copies_in(&copies, sq_floats_from(host, i).x, (size_t)m * sq_dtype_size(host.type));
        if (!s)
            return;
        widen(y + i, (struct sq_floats){host.type, s->there}, m);
        copies_used(&copies, s);
    }
}

static void expect(struct sq_floats host, int64_t n)
{
    for (int64_t i = 0, m; i < n; i += m) {
        m = piece_of(host.type, n - i);
        copies_expect(&copies, sq_floats_from(host, i).x, (size_t)m * sq_dtype_size(host.type));
    }
}

static void to_host(struct sq_floats host, const float *x, int64_t n)
{
    for (int64_t i = 0, m; i < n; i += m) {
        m = piece_of(host.type, n - i);
        const size_t bytes = (size_t)m * sq_dtype_size(host.type);
        struct copy_slot *s = copies_out(&copies, bytes);
        if (!s)
            return;
        narrow((struct sq_floats){host.type, s->there}, x + i, m);
        copies_send(&copies, s, sq_floats_from(host, i).x, bytes);
    }
}

/* ---- parts that repeat ---- */

static bool replay(enum sq_part k, int64_t key)
{
    if (!repeats)
        return false;
    if (part[k].state == RECORDED && part[k].key == key)
        return lib->replay(gpu, (int)k);
    if (part[k].state == RECORDED)
        return false; /* the rest of an epoch: not worth a recording */
    part[k].state = part[k].state == SEEN && part[k].key == key ? RECORDING : SEEN;
    part[k].key = key;
    if (part[k].state == RECORDING)
        lib->record(gpu);
    return false;
}

static void recorded(enum sq_part k)
{
    if (part[k].state != RECORDING)
        return;
    lib->recorded(gpu, (int)k);
    part[k].state = lib->replay(gpu, (int)k) ? RECORDED : UNKNOWN;
}

static void forget(void)
{
    copies_forget(&copies);
    lib->forget(gpu);
    memset(part, 0, sizeof part);
}

/* ---- operations ---- */

/* At most what an operand of n elements takes that is not multiplied as it lies. */
static size_t converted(struct sq_mat x, int64_t n, bool narrow, bool round_bf16)
{
    const bool as_it_is = narrow ? x.type == SQ_BF16 : x.type == SQ_F32 && !round_bf16;
    return as_it_is ? 0 : 4 * (size_t)n + 256;
}

static void gemm(float *c, int64_t ldc, struct sq_mat a, struct sq_mat b, int64_t m, int64_t n, int64_t k, bool add,
                 bool round_bf16)
{
    const bool narrow = bf16_units && (round_bf16 || (a.type == SQ_BF16 && b.type == SQ_BF16));
    const size_t bytes = converted(a, m * k, narrow, round_bf16) + converted(b, k * n, narrow, round_bf16);
    if (bytes == 0 || space(bytes))
        op->gemm(gpu, c, ldc, a, b, m, n, k, add, round_bf16);
}

static void gemm_codes(float *y, int64_t ldy, const float *base, const struct sq_codes *a, const struct sq_codes *b,
                       int64_t m, int64_t n)
{
    op->gemm_codes(gpu, y, ldy, base, a, b, m, n);
}

static void rmsnorm(struct sq_floats y, int64_t ldy, float *rrms, const float *x, int64_t ldx, const float *gain,
                    double eps, int64_t rows, int64_t n)
{
    op->rmsnorm(gpu, y, ldy, rrms, x, ldx, gain, eps, rows, n);
}

static void rmsnorm_grad(float *dx, int64_t lddx, bool add, float *dgain, const float *dy, int64_t lddy, const float *x,
                         int64_t ldx, const float *rrms, const float *gain, int64_t rows, int64_t n)
{
    if (space(sq_gpu_column_space(n)))
        op->rmsnorm_grad(gpu, dx, lddx, add, dgain, dy, lddy, x, ldx, rrms, gain, rows, n);
}

static void rope(struct sq_floats y, const float *x, const float *cos, const float *sin, int64_t rows, int64_t tokens,
                 int64_t heads, int64_t dim, bool inverse)
{
    op->rope(gpu, y, x, cos, sin, rows, tokens, heads, dim, inverse);
}

static void swiglu(struct sq_floats y, const float *gate, const float *up, int64_t n)
{
    op->swiglu(gpu, y, gate, up, n);
}

static void swiglu_grad(struct sq_floats dgate, struct sq_floats dup, struct sq_floats y, const float *dy,
                        const float *gate, const float *up, int64_t n)
{
    op->swiglu_grad(gpu, dgate, dup, y, dy, gate, up, n);
}

static void attention(float *out, float *lse, const float *q, const float *k, const float *v, int64_t batch,
                      int64_t tokens, int64_t heads, int64_t kv, int64_t dim)
{
    op->attention(gpu, out, lse, q, k, v, batch, tokens, heads, kv, dim, false);
}

static void attention_bf16(float *out, float *lse, const float *q, const float *k, const float *v, int64_t batch,
                           int64_t tokens, int64_t heads, int64_t kv, int64_t dim)
{
    op->attention(gpu, out, lse, q, k, v, batch, tokens, heads, kv, dim, true);
}

static void grad_of_attention(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse,
                              const float *q, const float *k, const float *v, int64_t batch, int64_t tokens,
                              int64_t heads, int64_t kv, int64_t dim, bool bf16)
{
    if (space(4 * (size_t)(batch * tokens * heads)))
        op->attention_grad(gpu, dq, dk, dv, dout, out, lse, q, k, v, batch, tokens, heads, kv, dim, bf16);
}

static void attention_grad(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse,
                           const float *q, const float *k, const float *v, int64_t batch, int64_t tokens, int64_t heads,
                           int64_t kv, int64_t dim)
{
    grad_of_attention(dq, dk, dv, dout, out, lse, q, k, v, batch, tokens, heads, kv, dim, false);
}

static void attention_grad_bf16(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse,
                                const float *q, const float *k, const float *v, int64_t batch, int64_t tokens,
                                 int64_t heads, int64_t kv, int64_t dim)
{
    grad_of_attention(dq, dk, dv, dout, out, lse, q, k, v, batch, tokens, heads, kv, dim, true);
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
    const size_t row = (size_t)n * sq_dtype_size(target.type), each = sizeof *weight + row;
    const int64_t most = SQ_MAX(SQ_COPY_BYTES / (int64_t)each, 1);
    for (int64_t i = 0, m; i < tokens; i += m) {
        m = SQ_MIN(most, tokens - i);
        const size_t weights = (size_t)m * sizeof *weight;
        struct copy_slot *s =
            copies_in_two(&copies, weight + i, weights, sq_floats_from(target, i * n).x, (size_t)m * row);
        if (!s || !space(8 * (size_t)m))
            return;
        op->loss(gpu, sum, dy ? dy + i * n : NULL, y + i * n, (const char *)s->there + weights, target.type, s->there, m,
                 n, scale);
        copies_used(&copies, s);
    }
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

static void hadamard(float *y, const float *x, const float *sign, int64_t rows, int64_t n)
{
    op->hadamard(gpu, y, x, sign, rows, n);
}

static void softmax(float *p, int64_t rows, int64_t n)
{
    op->softmax(gpu, p, rows, n);
}

static void choose(const struct sq_routing *r)
{
    op->choose(gpu, r);
}

static void assign(const struct sq_routing *r)
{
    if (space(sq_gpu_column_space(r->experts)))
        op->assign(gpu, r);
}

static void route_grad(float *dlogit, const double *dshare, const struct sq_routing *r)
{
    op->route_grad(gpu, dlogit, dshare, r);
}

static void gather(float *y, const float *x, const int64_t *pick, int64_t rows, int64_t n)
{
    op->gather(gpu, y, x, SQ_F32, pick, rows, n);
}

static void scatter(float *y, bool accumulate, const float *x, const float *scale, const int64_t *pick, int64_t rows,
                    int64_t top, int64_t n)
{
    op->scatter(gpu, y, accumulate, x, scale, pick, rows, top, n);
}

static void scale_rows(float *x, const float *scale, int64_t rows, int64_t n)
{
    op->scale_rows(gpu, x, scale, rows, n);
}

static void row_dots(double *dot, const float *a, const float *b, int64_t rows, int64_t n)
{
    op->row_dots(gpu, dot, a, b, rows, n);
}

static void rowquant(struct sq_floats y, const float *z, const struct sq_rowq *p, const float *u, const float *l,
                     int64_t rows, int64_t cols)
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

static void rowquant_search(float *u, float *l, struct sq_floats z, const float *weight, const struct sq_rowq *p,
                            int64_t rows, int64_t cols)
{
    op->rowquant_search(gpu, u, l, z.x, z.type, weight, p, rows, cols);
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
    .expect = expect,
    .replay = replay,
    .recorded = recorded,
    .forget = forget,
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
    .hadamard = hadamard,
    .softmax = softmax,
    .choose = choose,
    .assign = assign,
    .route_grad = route_grad,
    .gather = gather,
    .scatter = scatter,
    .scale_rows = scale_rows,
    .row_dots = row_dots,
    .rowquant = rowquant,
    .rowquant_grad = rowquant_grad,
    .rowquant_encode = rowquant_encode,
    .rowquant_search = rowquant_search,
    .nll = nll,
    .kl = kl,
};

enum { TRY_SPACE = 1 << 14 };

/* A product, as it is and recorded. The first one opens cuBLAS, which wants memory of its own: it fails here where it
 * cannot run, not when a window fills the device. One that cannot be recorded is no failure: nothing is, then. */
static int try_product(float *x)
{
    enum { N = 16 };
    const struct sq_mat m = sq_mat(x, N, false);
    int rc = lib->space(gpu, TRY_SPACE);
    op->gemm(gpu, x + N * N, N, m, m, N, N, N, false, true);
    rc = rc < 0 ? rc : lib->sync(gpu);
    if (rc < 0)
        return failure(rc);
    lib->record(gpu);
    op->gemm(gpu, x + N * N, N, m, m, N, N, N, false, true);
    lib->recorded(gpu, 0);
    repeats = lib->replay(gpu, 0) && lib->sync(gpu) == 0;
    if (!repeats)
        sq_log(SQ_WARNING, "this device queues every operation of every step: %s", lib->error(gpu));
    lib->clear(gpu);
    lib->forget(gpu);
    return 0;
}

static int start(void)
{
    struct sq_gpu_info info;
    void *x = NULL;
    int rc;
    SQ_TRY(failure(lib->alloc(gpu, &x, 1 << 12)));
    lib->fill(gpu, SQ_QUEUE_WORK, x, 0, 1 << 12);
    SQ_TRY(try_product(x));
out:
    lib->free(gpu, x);
    lib->info(gpu, &info);
    bf16_units = info.capability >= SQ_GPU_BF16;
    room = info.bytes > 0 ? info.free_bytes - info.later_bytes + SQ_GPU_BLAS_SPACE + TRY_SPACE : INT64_MAX;
    return rc;
}

static int open_device(int device)
{
    char why[256] = "";
    int rc;
    if (gpu)
        return 0;
    rc = sq_device_load(&lib, false);
    if (rc < 0)
        return rc;
    op = lib->ops;
    rc = lib->open(&gpu, device, why, sizeof why);
    if (rc < 0)
        return sq_fail((enum sq_err)rc, "%s", why);
    copies = (struct copies){.lib = lib, .gpu = gpu};
    rc = start();
    if (rc < 0)
        lib->close(&gpu);
    return rc;
}

static int refuse_fault(void *ctx, const struct sq_device_result *r)
{
    (void)ctx;
    return r->fault ? sq_fail(SQ_E_CHECK, "%s %s: %s", r->op, r->shape, r->fault) : 0;
}

int sq_device_try(char name[128], int device)
{
    struct sq_gpu_info info;
    int rc = open_device(device);
    if (rc < 0)
        return rc;
    lib->info(gpu, &info);
    snprintf(name, 128, "%s", info.name);
    rc = sq_device_check(lib, gpu, NULL, SQ_CHECK_ONCE, refuse_fault, NULL);
    if (rc < 0) {
        lib->close(&gpu);
        return sq_fail_in(rc, "%s", name);
    }
    return 0;
}

int sq_device_fill(struct sq_ops *ops, int device)
{
    struct sq_gpu_info info;
    const struct sq_ops filled = *ops;
    const int rc = open_device(device);
    if (rc < 0)
        return sq_fail_in(rc, "--backend cuda cannot run");
    lib->info(gpu, &info);
    *ops = table;
    ops->precision = filled.precision;
    ops->host = filled.host;
    if (ops->precision == SQ_BF16_PRODUCTS) {
        ops->attention = attention_bf16;
        ops->attention_grad = attention_grad_bf16;
        ops->narrows = bf16_units;
    }
    ops->name = lib->name;
    snprintf(ops->isa, sizeof ops->isa, "sm_%d, %.40s", info.capability, info.name);
    return memory_wait();
}
