/* The tables: filled with the reference, then overridden by the CPU backend (STYLE 2.2, as BLIS does it). */
#include "sq/op.h"

#include <pthread.h>

#include "cpu/cpu.h"
#include "device_ops.h"
#include "ref/ref.h"
#include "sq/app.h"
#include "sq/device.h"

/* What a device may write as bf16. */

static void rmsnorm(struct sq_floats y, int64_t ldy, float *rrms, const float *x, int64_t ldx, const float *gain,
                    double eps, int64_t rows, int64_t n)
{
    sq_rmsnorm_ref(sq_f32_of(y), ldy, rrms, x, ldx, gain, eps, rows, n);
}

static void rope(struct sq_floats y, const float *x, const float *cos, const float *sin, int64_t rows, int64_t tokens,
                 int64_t heads, int64_t dim, bool inverse)
{
    sq_rope_ref(sq_f32_of(y), x, cos, sin, rows, tokens, heads, dim, inverse);
}

static void swiglu(struct sq_floats y, const float *gate, const float *up, int64_t n)
{
    sq_swiglu_ref(sq_f32_of(y), gate, up, n);
}

static void swiglu_grad(struct sq_floats dgate, struct sq_floats dup, struct sq_floats y, const float *dy,
                        const float *gate, const float *up, int64_t n)
{
    sq_swiglu_grad_ref(sq_f32_of(dgate), sq_f32_of(dup), sq_f32_of(y), dy, gate, up, n);
}

static void rowquant(struct sq_floats y, const float *z, const struct sq_rowq *p, const float *u, const float *l,
                     int64_t rows, int64_t cols)
{
    sq_rowquant_ref(sq_f32_of(y), z, p, u, l, rows, cols);
}

static const struct sq_ops reference = {
    .name = "ref",
    .isa = "c",
    .precision = SQ_F32_PRODUCTS,
    .alloc = sq_memory_alloc_ref,
    .release = sq_free,
    .room = sq_memory_room_ref,
    .clear = sq_memory_clear_ref,
    .copy = sq_memory_copy_ref,
    .put = sq_memory_copy_ref,
    .get = sq_memory_get_ref,
    .wait = sq_memory_wait_ref,
    .widen = sq_widen_ref,
    .narrow = sq_narrow_ref,
    .round = sq_round_ref,
    .from_host = sq_widen_ref,
    .to_host = sq_narrow_ref,
    .expect = sq_expect_ref,
    .replay = sq_replay_ref,
    .recorded = sq_recorded_ref,
    .forget = sq_forget_ref,
    .project = sq_project_ref,
    .not_finite = sq_not_finite_ref,
    .square_sums = sq_square_sums_ref,
    .loss = sq_loss_ref,
    .gemm = sq_gemm_ref,
    .gemm_codes = sq_gemm_codes_ref,
    .rmsnorm = rmsnorm,
    .rmsnorm_grad = sq_rmsnorm_grad_ref,
    .rope = rope,
    .swiglu = swiglu,
    .swiglu_grad = swiglu_grad,
    .attention = sq_attention_ref,
    .attention_grad = sq_attention_grad_ref,
    .add = sq_add_ref,
    .bias = sq_bias_ref,
    .bias_grad = sq_bias_grad_ref,
    .hadamard = sq_hadamard_ref,
    .adamw = sq_adamw_ref,
    .softmax = sq_softmax_ref,
    .choose = sq_choose_ref,
    .assign = sq_assign_ref,
    .route_grad = sq_route_grad_ref,
    .gather = sq_gather_ref,
    .scatter = sq_scatter_ref,
    .scale_rows = sq_scale_rows_ref,
    .row_dots = sq_row_dots_ref,
    .rowquant = rowquant,
    .rowquant_grad = sq_rowquant_grad_ref,
    .rowquant_search = sq_rowquant_search_ref,
    .rowquant_encode = sq_rowquant_encode_ref,
    .nll = sq_nll_ref,
    .kl = sq_kl_ref,
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sq_ops tables[3][2]; /* [ref, cpu, cuda][precision] */
static bool have_ref, have_cpu, have_device;
static int device;

static void fill_ref(void)
{
    for (int b = 0; b < 2 && !have_ref; b++)
        for (int p = 0; p < 2; p++) {
            tables[b][p] = reference;
            tables[b][p].precision = (enum sq_precision)p;
            tables[b][p].host = &tables[b][p];
        }
    have_ref = true;
}

static int fill_cpu(void)
{
    enum sq_isa kernels, libraries;
    int rc;
    if (have_cpu)
        return 0;
    if ((rc = sq_isa_get(&kernels, &libraries)) < 0 || (rc = sq_cpu_init(sq_vec_of(kernels), libraries)) < 0)
        return rc;
    for (int p = 0; p < 2; p++)
        sq_cpu_fill(&tables[1][p]);
    have_cpu = true;
    return 0;
}

static int fill_device(void)
{
    int rc = 0;
    for (int p = 0; p < 2 && !have_device && rc == 0; p++) {
        tables[2][p].precision = (enum sq_precision)p;
        tables[2][p].host = &tables[1][p];
        rc = sq_device_fill(&tables[2][p], device);
    }
    have_device = rc == 0;
    return rc;
}

int sq_ops_get(const struct sq_ops **out, enum sq_backend backend, enum sq_precision precision)
{
    const int row = backend == SQ_BACKEND_REF ? 0 : backend == SQ_BACKEND_CUDA ? 2 : 1;
    int rc = 0;
    *out = NULL;
    if (precision != SQ_BF16_PRODUCTS && precision != SQ_F32_PRODUCTS)
        return sq_fail(SQ_E_ARG, "precision %d is unknown", (int)precision);
    SQ_ASSERT(pthread_mutex_lock(&lock) == 0);
    fill_ref();
    if (row > 0)
        rc = fill_cpu();
    if (row > 1 && rc == 0)
        rc = fill_device();
    SQ_ASSERT(pthread_mutex_unlock(&lock) == 0);
    if (rc == 0)
        *out = &tables[row][precision];
    return rc;
}

void sq_ops_choose(struct sq_app *app)
{
    const double start = sq_now();
    char name[128];
    if (app->backend != SQ_BACKEND_AUTO)
        return;
    const int rc = sq_device_try(name, device);
    if (rc == 0) {
        app->backend = SQ_BACKEND_CUDA;
        sq_log(SQ_INFO, "computing on %s, which agrees with the reference (looked at for %.1f s)", name,
               sq_now() - start);
    } else {
        sq_log(rc == SQ_E_UNSUP ? SQ_INFO : SQ_WARNING, "computing on the processor: %s%s", sq_errmsg(),
               rc == SQ_E_CHECK ? "; sq-gpucheck says more, --backend cpu looks at no device" : "");
    }
}

int sq_ops_of(const struct sq_ops **out, const struct sq_app *app, enum sq_precision precision)
{
    const enum sq_backend backend = (enum sq_backend)app->backend;
    *out = NULL;
    if (app->device) {
        const int rc = sq_device_number(&device, app->device);
        if (rc < 0)
            return rc;
        if (backend != SQ_BACKEND_CUDA)
            return sq_fail(SQ_E_ARG, "--device %s and a --backend that computes on the processor", app->device);
    }
    return sq_ops_get(out, backend, precision);
}
