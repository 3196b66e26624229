/* Products by oneDNN, for processors with units for bf16: the layer of tiles of gemm_cpu.c once more, with oneDNN's
 * reorders as packing and its matmul as the tile. oneDNN is kept to one thread, at creation too, as it cuts its work
 * by the number of threads it sees; so results do not depend on ours. The same code runs with f32 operands, which is
 * how it is tested where there is no such unit.
 *
 * For a shape met the first time its primitives are made and kept: for whole and last tiles of rows (x), columns (y)
 * and terms (z), and with or without addition to C. The library chooses the layout of packed operands. */
#include "cpu.h"

#include <omp.h>
#include <string.h>

#include "config.h"

#if SQ_HAVE_ONEDNN
#include <dnnl.h>
#endif

#if SQ_HAVE_ONEDNN && DNNL_VERSION_MAJOR == 2

enum { LONGEST = 8192, PLANS = 256 };

struct key {
    int64_t m, n, k, lda, ldb, ldc, ta, tb;
    dnnl_data_type_t a, b, ma, mb, mc; /* operands as stored and as multiplied; C */
};

struct plan {
    struct key key;
    int64_t mt, nt, kt;                    /* whole tiles */
    dnnl_memory_desc_t a[2][2], b[2][2];   /* packed: [x][z], [y][z] */
    dnnl_memory_desc_t from_a[2][2], from_b[2][2], c[2][2]; /* C: [x][y] */
    dnnl_primitive_t pack_a[2][2], pack_b[2][2], mul[2][2][2][2]; /* [x][y][z][add] */
    size_t a_bytes, b_bytes;               /* of the largest packed tile */
    size_t scratch;
};

static dnnl_engine_t engine;
static struct plan *plans[PLANS];
static int next_plan;

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t part(int64_t n, int64_t most, int64_t unit)
{
    return SQ_MIN(ceil_div(ceil_div(n, ceil_div(n, most)), unit) * unit, n);
}

/* Length of a whole (0) or the last (1) of the tiles of n; they may be the same. */
static int64_t extent(int64_t n, int64_t tile, int last)
{
    return last ? n - (ceil_div(n, tile) - 1) * tile : tile;
}

static bool plain(dnnl_memory_desc_t *d, int64_t rows, int64_t cols, int64_t rs, int64_t cs, dnnl_data_type_t type)
{
    return dnnl_memory_desc_init_by_strides(d, 2, (dnnl_dims_t){rows, cols}, type, (dnnl_dims_t){rs, cs}) ==
           dnnl_success;
}

static bool any_layout(dnnl_memory_desc_t *d, int64_t rows, int64_t cols, dnnl_data_type_t type)
{
    return dnnl_memory_desc_init_by_tag(d, 2, (dnnl_dims_t){rows, cols}, type, dnnl_format_tag_any) == dnnl_success;
}

/* Scratch memory is ours; add: C += instead of C =. */
static bool attributes(dnnl_primitive_attr_t *attr, bool add)
{
    dnnl_post_ops_t ops = NULL;
    bool ok = dnnl_primitive_attr_create(attr) == dnnl_success &&
              dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user) == dnnl_success;
    if (ok && add) {
        ok = dnnl_post_ops_create(&ops) == dnnl_success && dnnl_post_ops_append_sum(ops, 1) == dnnl_success &&
             dnnl_primitive_attr_set_post_ops(*attr, ops) == dnnl_success;
        dnnl_post_ops_destroy(ops);
    }
    return ok;
}

static bool finish(dnnl_primitive_t *out, struct plan *p, dnnl_primitive_desc_t pd)
{
    const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    if (scratch)
        p->scratch = SQ_MAX(p->scratch, dnnl_memory_desc_get_size(scratch));
    return dnnl_primitive_create(out, pd) == dnnl_success;
}

/* The product of packed tiles a and b; with `choose` their layouts are decided and returned. */
static bool make_product(struct plan *p, int x, int y, int z, int add, bool choose)
{
    dnnl_matmul_desc_t d;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    bool ok = attributes(&attr, add) &&
              dnnl_matmul_desc_init(&d, &p->a[x][z], &p->b[y][z], NULL, &p->c[x][y]) == dnnl_success &&
              dnnl_primitive_desc_create(&pd, &d, attr, engine, NULL) == dnnl_success;
    if (ok && choose) {
        p->a[x][z] = *dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0);
        p->b[y][z] = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    } else if (ok) {
        ok = finish(&p->mul[x][y][z][add], p, pd);
    }
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_attr_destroy(attr);
    return ok;
}

static bool make_pack(dnnl_primitive_t *out, struct plan *p, const dnnl_memory_desc_t *from,
                      const dnnl_memory_desc_t *to)
{
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    const bool ok = attributes(&attr, false) &&
                    dnnl_reorder_primitive_desc_create(&pd, from, engine, to, engine, attr) == dnnl_success &&
                    finish(out, p, pd);
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_attr_destroy(attr);
    return ok;
}

/* Layouts are taken from the products of whole tiles: of a from (x, 0), of b from (0, y). */
static bool make_layouts(struct plan *p, int z)
{
    const struct key *k = &p->key;
    const int64_t kt = extent(k->k, p->kt, z);
    bool ok = true;
    for (int i = 0; i < 2 && ok; i++) {
        const int64_t mt = extent(k->m, p->mt, i), nt = extent(k->n, p->nt, i);
        ok = plain(&p->from_a[i][z], mt, kt, k->ta ? 1 : k->lda, k->ta ? k->lda : 1, k->a) &&
             plain(&p->from_b[i][z], kt, nt, k->tb ? 1 : k->ldb, k->tb ? k->ldb : 1, k->b) &&
             any_layout(&p->a[i][z], mt, kt, k->ma) && any_layout(&p->b[i][z], kt, nt, k->mb);
    }
    ok = ok && make_product(p, 0, 0, z, 0, true) && make_product(p, 1, 0, z, 0, true) &&
         make_product(p, 0, 1, z, 0, true);
    for (int i = 0; i < 2 && ok; i++) {
        p->a_bytes = SQ_MAX(p->a_bytes, dnnl_memory_desc_get_size(&p->a[i][z]));
        p->b_bytes = SQ_MAX(p->b_bytes, dnnl_memory_desc_get_size(&p->b[i][z]));
        ok = make_pack(&p->pack_a[i][z], p, &p->from_a[i][z], &p->a[i][z]) &&
             make_pack(&p->pack_b[i][z], p, &p->from_b[i][z], &p->b[i][z]);
    }
    return ok;
}

static void plan_free(struct plan *p)
{
    for (int i = 0; p && i < 16; i++)
        if (p->mul[i / 8][i / 4 % 2][i / 2 % 2][i % 2])
            dnnl_primitive_destroy(p->mul[i / 8][i / 4 % 2][i / 2 % 2][i % 2]);
    for (int i = 0; p && i < 4; i++) {
        if (p->pack_a[i / 2][i % 2])
            dnnl_primitive_destroy(p->pack_a[i / 2][i % 2]);
        if (p->pack_b[i / 2][i % 2])
            dnnl_primitive_destroy(p->pack_b[i / 2][i % 2]);
    }
    sq_free(p);
}

/* Tiles of 256 x 256, smaller where there would be few; as many terms as the panels hold for all rows and columns. */
static void choose_tiles(struct plan *p)
{
    const struct key *k = &p->key;
    int64_t edge = 256;
    for (;; edge /= 2) {
        p->mt = part(k->m, edge, 16);
        p->nt = part(k->n, edge, 32);
        if (ceil_div(k->m, p->mt) * ceil_div(k->n, p->nt) >= 32 || edge <= 64)
            break;
    }
    p->kt = part(k->k, k->ma == dnnl_f32 ? 384 : 768, 32); /* LONGEST vectors of them in 3/4 of the panels: layouts may pad */
}

static bool plan_make(struct plan *p)
{
    choose_tiles(p);
    const struct key *k = &p->key;
    bool ok = true;
    for (int x = 0; x < 2; x++)
        for (int y = 0; y < 2; y++)
            ok = ok && plain(&p->c[x][y], extent(k->m, p->mt, x), extent(k->n, p->nt, y), k->ldc, 1, k->mc);
    for (int z = 0; z < 2; z++)
        ok = ok && make_layouts(p, z);
    for (int i = 0; i < 16; i++)
        ok = ok && make_product(p, i / 8, i / 4 % 2, i / 2 % 2, i % 2, false);
    p->a_bytes = (p->a_bytes + 63) / 64 * 64;
    p->b_bytes = (p->b_bytes + 63) / 64 * 64;
    const size_t room = (size_t)SQ_PANELS * sizeof(float);
    return ok && (size_t)ceil_div(k->m, p->mt) * p->a_bytes <= room &&
           (size_t)ceil_div(k->n, p->nt) * p->b_bytes <= room && p->scratch <= (size_t)SQ_PRIVATE * sizeof(float);
}

/* The plan of a shape, made now if need be; NULL when the library refuses. The oldest makes room. */
static const struct plan *plan_of(const struct key *key)
{
    for (int i = 0; i < PLANS && plans[i]; i++)
        if (memcmp(&plans[i]->key, key, sizeof *key) == 0)
            return plans[i];
    struct plan *p = NULL;
    if (sq_alloc(&p, 1) < 0)
        return NULL;
    p->key = *key;
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    const bool ok = plan_make(p);
    omp_set_num_threads(threads);
    if (!ok) {
        plan_free(p);
        return NULL;
    }
    plan_free(plans[next_plan]);
    plans[next_plan] = p;
    next_plan = (next_plan + 1) % PLANS;
    return p;
}

struct argument {
    int name;
    const dnnl_memory_desc_t *desc;
    void *data;
};

/* Run a primitive on this thread; args ends at the one without a description. */
static bool execute(dnnl_primitive_t primitive, dnnl_stream_t stream, const struct plan *p, const struct argument *args)
{
    dnnl_exec_arg_t list[4];
    dnnl_memory_desc_t scratch;
    void *space = sq_space_private(omp_get_thread_num());
    int n = 0;
    bool ok = true;
    for (; args[n].desc && ok; n++) {
        list[n] = (dnnl_exec_arg_t){args[n].name, NULL};
        ok = dnnl_memory_create(&list[n].memory, args[n].desc, engine, args[n].data) == dnnl_success;
    }
    const dnnl_dims_t bytes = {SQ_MAX((dnnl_dim_t)p->scratch, 1)};
    list[n] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, NULL};
    ok = ok && dnnl_memory_desc_init_by_tag(&scratch, 1, bytes, dnnl_u8, dnnl_x) == dnnl_success &&
         dnnl_memory_create(&list[n].memory, &scratch, engine, space) == dnnl_success &&
         dnnl_primitive_execute(primitive, stream, n + 1, list) == dnnl_success &&
         dnnl_stream_wait(stream) == dnnl_success;
    for (int i = 0; i <= n; i++)
        if (list[i].memory)
            dnnl_memory_destroy(list[i].memory);
    return ok;
}

struct call {
    void *c; /* 4 bytes an element */
    const void *a, *b;
    bool add;
};

/* Element (row, col) of an operand that lies as its key says. */
static const void *element(const void *x, int64_t row, int64_t col, int64_t ld, bool transposed, dnnl_data_type_t type)
{
    const int64_t at = transposed ? col * ld + row : row * ld + col;
    return (const char *)x + at * (int64_t)dnnl_data_type_size(type);
}

static char *packed(int which, int64_t tile, size_t bytes)
{
    return (char *)sq_space_panels(which) + (size_t)tile * bytes;
}

/* Packing of row tile t, or of column tile t - mtiles. */
static bool pack_tile(const struct plan *p, dnnl_stream_t stream, const struct call *v, int64_t t, int64_t k0)
{
    const struct key *k = &p->key;
    const int64_t mtiles = ceil_div(k->m, p->mt), ntiles = ceil_div(k->n, p->nt);
    const int z = k0 + p->kt >= k->k, last = t < mtiles ? t == mtiles - 1 : t == mtiles + ntiles - 1;
    if (t < mtiles) {
        const void *from = element(v->a, t * p->mt, k0, k->lda, k->ta, k->a);
        return execute(p->pack_a[last][z], stream, p,
                       (struct argument[]){{DNNL_ARG_FROM, &p->from_a[last][z], (void *)(uintptr_t)from},
                                           {DNNL_ARG_TO, &p->a[last][z], packed(0, t, p->a_bytes)},
                                           {0, NULL, NULL}});
    }
    const int64_t j = t - mtiles;
    const void *from = element(v->b, k0, j * p->nt, k->ldb, k->tb, k->b);
    return execute(p->pack_b[last][z], stream, p,
                   (struct argument[]){{DNNL_ARG_FROM, &p->from_b[last][z], (void *)(uintptr_t)from},
                                       {DNNL_ARG_TO, &p->b[last][z], packed(1, j, p->b_bytes)},
                                       {0, NULL, NULL}});
}

static bool multiply_tile(const struct plan *p, dnnl_stream_t stream, const struct call *v, int64_t i, int64_t j,
                          int64_t k0)
{
    const struct key *k = &p->key;
    const int x = i == ceil_div(k->m, p->mt) - 1, y = j == ceil_div(k->n, p->nt) - 1, z = k0 + p->kt >= k->k;
    return execute(p->mul[x][y][z][v->add || k0 > 0], stream, p,
                   (struct argument[]){{DNNL_ARG_SRC, &p->a[x][z], packed(0, i, p->a_bytes)},
                                       {DNNL_ARG_WEIGHTS, &p->b[y][z], packed(1, j, p->b_bytes)},
                                       {DNNL_ARG_DST, &p->c[x][y], (float *)v->c + i * p->mt * k->ldc + j * p->nt},
                                       {0, NULL, NULL}});
}

static bool run(const struct plan *p, const struct call *v)
{
    const struct key *k = &p->key;
    const int64_t mtiles = ceil_div(k->m, p->mt), ntiles = ceil_div(k->n, p->nt);
    bool failed = false;
#pragma omp parallel num_threads((double)k->m * (double)k->n * (double)k->k > 4e6 ? sq_cpu_threads() : 1) reduction(|| : failed)
    {
        dnnl_stream_t stream = NULL;
        omp_set_num_threads(1); /* of this thread, inside of this region */
        failed = dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) != dnnl_success;
        for (int64_t k0 = 0; k0 < k->k; k0 += p->kt) {
#pragma omp for schedule(dynamic)
            for (int64_t t = 0; t < mtiles + ntiles; t++)
                failed = failed || !pack_tile(p, stream, v, t, k0);
#pragma omp for schedule(dynamic)
            for (int64_t t = 0; t < mtiles * ntiles; t++)
                failed = failed || !multiply_tile(p, stream, v, t % mtiles, t / mtiles, k0);
        }
        dnnl_stream_destroy(stream);
    }
    return !failed;
}

int sq_onednn_open(const char **unit, enum sq_isa most)
{
    *unit = NULL;
    if (most < SQ_ISA_ANY) /* refused after first use; then *unit says what is in force */
        (void)dnnl_set_max_cpu_isa(most == SQ_ISA_AVX2 ? dnnl_cpu_isa_avx2 : dnnl_cpu_isa_avx512_core);
    if (!engine && dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success)
        return sq_fail(SQ_E_UNSUP, "onednn has no engine for this processor");
    const unsigned isa = (unsigned)dnnl_get_effective_cpu_isa();
    if ((isa & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx)
        *unit = "dnnl-amx";
    else if ((isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16)
        *unit = "dnnl-bf16";
    return 0;
}

/* In pieces of at most LONGEST rows and columns. First all plans, so that C is untouched when there is none. */
static int multiply(void *c, const void *a, const void *b, const struct key *whole, bool add)
{
    const int64_t m = whole->m, n = whole->n;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < m; i += LONGEST)
            for (int64_t j = 0; j < n; j += LONGEST) {
                struct key key = *whole;
                key.m = SQ_MIN(LONGEST, m - i);
                key.n = SQ_MIN(LONGEST, n - j);
                const struct plan *p = plan_of(&key);
                const struct call v = {(float *)c + i * key.ldc + j, element(a, i, 0, key.lda, key.ta, key.a),
                                       element(b, 0, j, key.ldb, key.tb, key.b), add};
                if (!p)
                    return sq_fail(SQ_E_UNSUP, "onednn has no product of %" PRId64 " x %" PRId64 " x %" PRId64, m, n,
                                   key.k);
                if (pass == 1)
                    SQ_ASSERT(run(p, &v));
            }
    return 0;
}

static dnnl_data_type_t stored(enum sq_dtype type)
{
    return type == SQ_BF16 ? dnnl_bf16 : dnnl_f32;
}

int sq_gemm_onednn(float *c, int64_t ldc, struct sq_mat a, struct sq_mat b, int64_t m, int64_t n, int64_t k, bool add,
                   bool bf16)
{
    const dnnl_data_type_t type = bf16 ? dnnl_bf16 : dnnl_f32;
    struct key key;
    memset(&key, 0, sizeof key); /* keys are compared as bytes */
    key.m = m, key.n = n, key.k = k, key.lda = a.ld, key.ldb = b.ld, key.ldc = ldc;
    key.ta = a.transposed, key.tb = b.transposed;
    key.a = stored(a.type), key.b = stored(b.type), key.ma = key.mb = type, key.mc = dnnl_f32;
    return multiply(c, a.x, b.x, &key, add);
}

int sq_gemm_codes_onednn(int32_t *c, int64_t ldc, const uint8_t *a, int64_t lda, const uint8_t *b, int64_t ldb,
                         int64_t m, int64_t n, int64_t k)
{
    struct key key;
    memset(&key, 0, sizeof key);
    key.m = m, key.n = n, key.k = k, key.lda = lda, key.ldb = ldb, key.ldc = ldc, key.tb = true;
    key.a = key.ma = dnnl_u8, key.b = key.mb = dnnl_s8, key.mc = dnnl_s32;
    return multiply(c, a, b, &key, false);
}
#else
int sq_onednn_open(const char **unit, enum sq_isa most)
{
    (void)most;
    *unit = NULL;
    return sq_fail(SQ_E_UNSUP, "this program was built without onednn 2");
}

int sq_gemm_onednn(float *c, int64_t ldc, struct sq_mat a, struct sq_mat b, int64_t m, int64_t n, int64_t k, bool add,
                   bool bf16)
{
    (void)c, (void)ldc, (void)a, (void)b, (void)m, (void)n, (void)k, (void)add, (void)bf16;
    return sq_fail(SQ_E_UNSUP, "this program was built without onednn 2");
}

int sq_gemm_codes_onednn(int32_t *c, int64_t ldc, const uint8_t *a, int64_t lda, const uint8_t *b, int64_t ldb,
                         int64_t m, int64_t n, int64_t k)
{
    (void)c, (void)ldc, (void)a, (void)lda, (void)b, (void)ldb, (void)m, (void)n, (void)k;
    return sq_fail(SQ_E_UNSUP, "this program was built without onednn 2");
}
#endif
