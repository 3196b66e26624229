#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "../../libsq/op/cpu/rowquant_cpu.h"
#include "../golden.h"
#include "levels.h"
#include "sq/rng.h"
#include "sq/rowquant.h"

/* Tolerances are those of tests/oracle/README.md: codes and zero points equal; y, dz, s 3e-5 of the row's
 * largest; du, dl 3e-5 of the sum of the magnitudes of their terms (8 bits: 3e-4). */

static double worst_row(const float *x, const double *ref, int64_t rows, int64_t cols)
{
    double worst = 0;
    for (int64_t i = 0; i < rows; i++) {
        double diff = 0, size = 1e-300;
        for (int64_t j = 0; j < cols; j++) {
            diff = fmax(diff, fabs((double)x[i * cols + j] - ref[i * cols + j]));
            size = fmax(size, fabs(ref[i * cols + j]));
        }
        worst = fmax(worst, isnan(diff) ? INFINITY : diff / size);
    }
    return worst;
}

static double *get(const struct golden *g, const char *prefix, const char *name)
{
    char key[256];
    snprintf(key, sizeof key, "%s%s", prefix, name);
    return golden_f64(g, key, NULL);
}

static float *getf(const struct golden *g, const char *prefix, const char *name)
{
    char key[256];
    snprintf(key, sizeof key, "%s%s", prefix, name);
    return golden_f32(g, key, NULL);
}

struct instance {
    const struct golden *g;
    struct sq_rowq p;
    float *z, *dy, *u, *l;
    int64_t rows, cols, groups;
    char prefix[64]; /* of codes and rates: "b2_sym.g32." */
};

static void check_codes(const struct instance *c)
{
    const int64_t n = c->rows * c->cols, ng = c->rows * c->groups;
    float *s = malloc((size_t)ng * 4), *zp = malloc((size_t)ng * 4);
    uint8_t *q = malloc((size_t)n);
    double *qr = get(c->g, c->prefix, "q"), *sr = get(c->g, c->prefix, "s"), *zr = get(c->g, c->prefix, "zp");
    sq_rowquant_grid(s, zp, c->z, &c->p, c->u, c->l, c->rows, c->cols);
    sq_rowquant_codes(q, c->z, s, zp, &c->p, c->rows, c->cols);
    for (int64_t i = 0; i < ng; i++)
        assert_true((double)zp[i] == zr[i]);
    assert_true(worst_row(s, sr, ng, 1) < 3e-5);
    for (int64_t i = 0; i < n; i++)
        assert_true((int)q[i] - (c->p.sym ? 1 << (c->p.bits - 1) : 0) == (int)qr[i]);
    free(s), free(zp), free(q), free(qr), free(sr), free(zr);
}

static void check_rate(const struct instance *c, const char *rate)
{
    const int64_t n = c->rows * c->cols, ng = c->rows * c->groups;
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%s%s.", c->prefix, rate);
    float *y = malloc((size_t)n * 4), *dz = malloc((size_t)n * 4), *du = malloc((size_t)ng * 4),
          *dl = malloc((size_t)ng * 4);
    double *yr = get(c->g, prefix, "y"), *dzr = get(c->g, prefix, "dz");
    sq_rowquant_ref(y, c->z, &c->p, c->u, c->l, c->rows, c->cols);
    sq_rowquant_grad_ref(dz, du, dl, c->dy, c->z, &c->p, c->u, c->l, c->rows, c->cols);
    const double ey = worst_row(y, yr, c->rows, c->cols), ez = worst_row(dz, dzr, c->rows, c->cols);
    if (ey > 3e-5 || ez > 3e-5)
        fail_msg("%s y %g dz %g", prefix, ey, ez);
    for (int k = 0; k < 2; k++) {
        double *d = get(c->g, prefix, k ? "dl" : "du"), *size = get(c->g, prefix, k ? "dl_size" : "du_size");
        for (int64_t i = 0; i < ng; i++) {
            const double e = fabs((double)(k ? dl : du)[i] - d[i]);
            if (!(e <= (c->p.bits == 8 ? 3e-4 : 3e-5) * size[i]))
                fail_msg("%s%s[%d]: %g is not %g", prefix, k ? "dl" : "du", (int)i, (double)(k ? dl : du)[i],
                         d[i]);
        }
        free(d), free(size);
    }
    /* in place gives the same */
    memcpy(y, c->z, (size_t)n * 4);
    float *y2 = malloc((size_t)n * 4), *dz2 = malloc((size_t)n * 4);
    sq_rowquant_ref(y2, c->z, &c->p, c->u, c->l, c->rows, c->cols);
    sq_rowquant_ref(y, y, &c->p, c->u, c->l, c->rows, c->cols);
    assert_memory_equal(y, y2, (size_t)n * 4);
    memcpy(dz2, c->dy, (size_t)n * 4);
    sq_rowquant_grad_ref(dz2, du, dl, dz2, c->z, &c->p, c->u, c->l, c->rows, c->cols);
    assert_memory_equal(dz, dz2, (size_t)n * 4);
    free(y), free(y2), free(dz), free(dz2), free(du), free(dl), free(yr), free(dzr);
}

static void check_instance(struct instance *c, const char *which, const char *codes_prefix)
{
    char name[192];
    snprintf(name, sizeof name, "%s.", which);
    c->u = getf(c->g, name, "u"), c->l = getf(c->g, name, "l");
    snprintf(c->prefix, sizeof c->prefix, "%s%s.", codes_prefix, which);
    c->p.group = strcmp(which, "g32") ? 0 : 32;
    c->groups = sq_rowq_groups(&c->p, c->cols);
    c->p.rate = 1;
    check_codes(c);
    static const struct {
        const char *name;
        double rate;
    } rates[] = {{"rho030", .3}, {"rho050", .5}, {"rho100", 1}};
    int seen = 0;
    for (size_t r = 0; r < 3; r++) {
        snprintf(name, sizeof name, "%s%s.y", c->prefix, rates[r].name);
        if (!golden_has(c->g, name))
            continue;
        c->p.rate = rates[r].rate;
        check_rate(c, rates[r].name);
        seen++;
    }
    assert_true(seen >= 2);
    free(c->u), free(c->l);
}

static void test_goldens(void **state)
{
    (void)state;
    for (int k = 0; k < 8; k++) {
        static const int bits[] = {2, 3, 4, 8};
        const bool sym = k % 2;
        char name[64];
        snprintf(name, sizeof name, "quant_b%d_%s", bits[k / 2], sym ? "sym" : "asym");
        struct golden g;
        golden_open(&g, name);
        struct instance c = {.g = &g, .p = {.bits = bits[k / 2], .sym = sym}, .rows = 18, .cols = 96};
        c.z = getf(&g, "", "z"), c.dy = getf(&g, "", "dy");
        check_instance(&c, "row", "");
        check_instance(&c, "g32", "");
        free(c.z), free(c.dy);
        golden_close(&g);
    }
}

static void test_odd_goldens(void **state)
{
    (void)state;
    static const struct {
        const char *name, *which;
        int64_t cols;
    } odd[] = {{"quant_odd_k1", "row", 1},
               {"quant_odd_k5", "row", 5},
               {"quant_odd_k33", "row", 33},
               {"quant_odd_k67", "row", 67},
               {"quant_odd_k70_g32", "g32", 70}};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        struct golden g;
        golden_open(&g, odd[i].name);
        for (int k = 0; k < 8; k++) {
            static const int bits[] = {2, 3, 4, 8};
            struct instance c = {
                .g = &g, .p = {.bits = bits[k / 2], .sym = k % 2}, .rows = 6, .cols = odd[i].cols};
            char prefix[32];
            snprintf(prefix, sizeof prefix, "b%d_%s.", c.p.bits, c.p.sym ? "sym" : "asym");
            c.z = getf(&g, "", "z"), c.dy = getf(&g, "", "dy");
            check_instance(&c, odd[i].which, prefix);
            free(c.z), free(c.dy);
        }
        golden_close(&g);
    }
}

/* On rows with both signs the flag `zero` changes nothing; on others zero points come into the code range. */
static void test_zero_flag(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "quant_b4_asym");
    float *z = getf(&g, "", "z"), *u = getf(&g, "", "row.u"), *l = getf(&g, "", "row.l");
    for (int bits = 1; bits <= 8; bits++) {
        struct sq_rowq off = {.bits = bits, .rate = 1}, on = off;
        on.zero = true;
        for (int64_t i = 0; i < 18; i++) {
            float s[2], zp[2], max = -1e38f, min = 1e38f;
            sq_rowquant_grid(s, zp, z + 96 * i, &off, u + i, l + i, 1, 96);
            sq_rowquant_grid(s + 1, zp + 1, z + 96 * i, &on, u + i, l + i, 1, 96);
            for (int64_t j = 0; j < 96; j++)
                max = fmaxf(max, z[96 * i + j]), min = fminf(min, z[96 * i + j]);
            if (max >= 0 && min <= 0)
                assert_true(s[0] == s[1] && zp[0] == zp[1]);
            assert_true(zp[1] >= 0 && zp[1] <= (float)((1 << bits) - 1) && !signbit(zp[1]));
        }
    }
    free(z), free(u), free(l);
    golden_close(&g);
}

/* y of the forward = dequantised codes wherever the zero point fits a byte */
/* scale 1 exactly and -lo / s on a tie: zero points round to even, as docs/method.md 1 and torch do */
static void test_zero_points_on_a_tie(void **state)
{
    (void)state;
    const struct sq_rowq p = {.bits = 2, .rate = 1.0};
    const float z[2][3] = {{-0.5f, 0.25f, 2.5f}, {-2.5f, 0.25f, 0.5f}};
    const float want[2] = {0, 2};
    float scale[2], zero[2];
    sq_rowquant_grid(scale, zero, &z[0][0], &p, NULL, NULL, 2, 3);
    for (int i = 0; i < 2; i++) {
        assert_true(scale[i] == 1.0f);
        assert_true(zero[i] == want[i]);
    }
}

static void test_dequant(void **state)
{
    (void)state;
    enum { R = 7, K = 70 };
    struct sq_rng r = sq_rng_init(5, SQ_RNG_TEST, 0, 0, 0, 0);
    float z[R * K], y[R * K], back[R * K], s[R * 3], zp[R * 3];
    uint8_t q[R * K], zero[R * 3];
    for (int64_t i = 0; i < R * K; i++)
        z[i] = (float)sq_rng_normal(&r);
    for (int bits = 1; bits <= 8; bits++)
        for (int sym = 0; sym < 2; sym++) {
            if (sym && bits == 1)
                continue;
            const struct sq_rowq p = {.bits = bits, .sym = sym, .zero = true, .group = 32, .rate = 1};
            sq_rowquant_ref(y, z, &p, NULL, NULL, R, K);
            sq_rowquant_grid(s, zp, z, &p, NULL, NULL, R, K);
            sq_rowquant_codes(q, z, s, zp, &p, R, K);
            for (int64_t i = 0; i < R * 3; i++)
                zero[i] = (uint8_t)(zp[i] + (float)(sym ? 1 << (bits - 1) : 0));
            sq_rowquant_dequant(back, q, s, zero, &p, R, K);
            for (int64_t i = 0; i < R * K; i++)
                assert_true(y[i] == back[i]);
        }
}

/* With the zero flag on, a one-sided row has a constant side: the derivative against central differences of
 * the straight-through surrogate sum(dy * (codes fixed) * s(z)), which is what dz minus the direct part must
 * be. */
static void test_zero_gradient(void **state)
{
    (void)state;
    const float z[4] = {1, 2.2f, 3, 0.4f}, dy[4] = {0.3f, -1, 0.7f, 0.2f}, u = 1, l = 1;
    float dz[4], du, dl;
    for (int sym = 0; sym < 2; sym++) {
        const struct sq_rowq p = {.bits = 3, .sym = sym, .zero = true, .rate = 1};
        sq_rowquant_grad_ref(dz, &du, &dl, dy, z, &p, &u, &l, 1, 4);
        assert_true(dl == 0); /* lo is the constant 0 (symmetric: not the larger) */
        assert_true(du != 0);
        assert_true(dz[3] == dy[3]); /* the minimum moves nothing */
    }
}

static void test_identity_and_empty(void **state)
{
    (void)state;
    const float z[3] = {1, -2, 3}, u[3] = {0};
    float y[3], du[3] = {1, 1, 1}, dl[3] = {1, 1, 1};
    const struct sq_rowq p = {.bits = 16, .rate = 1}, p4 = {.bits = 4, .rate = 1};
    sq_rowquant_ref(y, z, &p, u, u, 3, 1);
    assert_memory_equal(y, z, sizeof y);
    sq_rowquant_grad_ref(y, du, dl, z, z, &p, u, u, 3, 1);
    assert_memory_equal(y, z, sizeof y);
    assert_true(du[0] == 0 && dl[2] == 0);
    sq_rowquant_ref(NULL, NULL, &p4, NULL, NULL, 0, 5);
    assert_int_equal(sq_rowq_covered(576, 0.5), 288);
    assert_int_equal(sq_rowq_covered(5, 0.3), 2);
    assert_int_equal(sq_rowq_covered(10, 0.1), 1);
    assert_int_equal(sq_rowq_covered(7, 1), 7);
}

/* Plain rounding of bf16-valued weights meets many exact ties: bit for bit. */
static void test_rtn_codes(void **state)
{
    (void)state;
    FILE *f = fopen("../shared/data/models/TinyStories-656K/model.safetensors", "rb");
    if (!f) {
        print_message("skipped: ../shared/data/models/TinyStories-656K is absent\n");
        skip();
    }
    fclose(f);
    struct golden m, g;
    golden_open(&m, "../../../../shared/data/models/TinyStories-656K/model");
    golden_open(&g, "rtn_codes");
    static const char *const linear[] = {"self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"};
    for (int bits = 2; bits <= 4; bits++)
        for (size_t k = 0; k < 3; k++) {
            char name[128];
            const char *dtype;
            int64_t n, dim[4];
            snprintf(name, sizeof name, "model.layers.0.%s.weight", linear[k]);
            golden_raw(&m, name, &dtype, &n, dim);
            float *z = getf(&m, "", name), *s = malloc((size_t)dim[0] * 4), *zp = malloc((size_t)dim[0] * 4);
            uint8_t *q = malloc((size_t)n);
            const struct sq_rowq p = {.bits = bits, .zero = true, .rate = 1};
            sq_rowquant_grid(s, zp, z, &p, NULL, NULL, dim[0], dim[1]);
            sq_rowquant_codes(q, z, s, zp, &p, dim[0], dim[1]);
            snprintf(name, sizeof name, "W%dA16.%s.", bits, linear[k]);
            double *qr = get(&g, name, "q"), *sr = get(&g, name, "s"), *zr = get(&g, name, "zp");
            for (int64_t i = 0; i < n; i++)
                assert_true((double)q[i] == qr[i]);
            for (int64_t i = 0; i < dim[0]; i++)
                assert_true((double)s[i] == sr[i] && (double)zp[i] == zr[i]);
            free(z), free(s), free(zp), free(q), free(qr), free(sr), free(zr);
        }
    golden_close(&m);
    golden_close(&g);
}

/* ---- the CPU backend has the reference's bits -------------------------------------------------- */

enum { PAD = 9 };

struct buffers {
    float *z, *dy, *u, *l, *y[2], *dz[2], *du[2], *dl[2];
    int64_t n, ng;
};

static float *sentinel(int64_t n)
{
    float *x = malloc((size_t)(n + 2 * PAD) * 4);
    for (int64_t i = 0; i < n + 2 * PAD; i++)
        x[i] = 12345;
    return x;
}

static void check_pair(float *const pair[2], int64_t n, const char *what, const struct sq_rowq *p,
                       int64_t cols)
{
    if (memcmp(pair[0], pair[1], (size_t)(n + 2 * PAD) * 4))
        fail_msg("%s differs: bits %d sym %d zero %d group %d rate %g cols %d", what, p->bits, p->sym,
                 p->zero, (int)p->group, p->rate, (int)cols);
    for (int64_t i = 0; i < PAD; i++)
        assert_true(pair[1][i] == 12345 && pair[1][n + PAD + i] == 12345);
}

static void fill_rows(struct buffers *b, int64_t rows, int64_t cols)
{
    struct sq_rng r = sq_rng_init(3, SQ_RNG_TEST, (uint64_t)rows, (uint64_t)cols, 0, 0);
    for (int64_t i = 0; i < b->n; i++) {
        const int64_t row = i / cols;
        const double x = sq_rng_normal(&r);
        b->dy[i] = (float)sq_rng_normal(&r);
        switch (row % 8) { /* plain, one-sided, constant, zeros, ties, outlier, tiny, -0 among 0 */
        case 1: b->z[i] = (float)fabs(x); break;
        case 2: /* terms that cancel in the reference's order of partial sums only */
            b->z[i] = -0.37f;
            b->dy[i] = (const float[]){1, 1e20f, -1e20f, 1}[i % cols / 8 % 4];
            break;
        case 3: b->z[i] = i % 3 ? 0.0f : -0.0f; break;
        case 4: b->z[i] = (float)(int)(3 * x); break;
        case 5: b->z[i] = i % cols == cols / 2 ? 1e30f : (float)x; break;
        case 6: b->z[i] = (float)(x * 1e-40); break;
        case 7: b->z[i] = x > 0 ? -0.0f : (float)x; break;
        default: b->z[i] = (float)x;
        }
    }
    for (int64_t i = 0; i < b->ng; i++) {
        b->u[i] = (float)(2 * sq_rng_normal(&r));
        b->l[i] = (float)(2 * sq_rng_normal(&r));
    }
}

static void compare(int64_t rows, int64_t cols, const struct sq_rowq *p, bool clipped)
{
    struct buffers b = {.n = rows * cols, .ng = rows * sq_rowq_groups(p, cols)};
    b.z = sentinel(b.n), b.dy = sentinel(b.n), b.u = sentinel(b.ng), b.l = sentinel(b.ng);
    fill_rows(&b, rows, cols);
    const float *u = clipped ? b.u : NULL, *l = clipped ? b.l : NULL;
    for (int k = 0; k < 2; k++) {
        b.y[k] = sentinel(b.n), b.dz[k] = sentinel(b.n), b.du[k] = sentinel(b.ng), b.dl[k] = sentinel(b.ng);
        (k ? sq_rowquant_cpu : sq_rowquant_ref)(b.y[k] + PAD, b.z, p, u, l, rows, cols);
        (k ? sq_rowquant_grad_cpu : sq_rowquant_grad_ref)(b.dz[k] + PAD, clipped ? b.du[k] + PAD : NULL,
                                                          clipped ? b.dl[k] + PAD : NULL, b.dy, b.z, p, u, l,
                                                          rows, cols);
    }
    check_pair(b.y, b.n, "y", p, cols);
    check_pair(b.dz, b.n, "dz", p, cols);
    check_pair(b.du, b.ng, "du", p, cols);
    check_pair(b.dl, b.ng, "dl", p, cols);
    /* in place */
    memcpy(b.y[0] + PAD, b.z, (size_t)b.n * 4);
    sq_rowquant_cpu(b.y[0] + PAD, b.y[0] + PAD, p, u, l, rows, cols);
    check_pair(b.y, b.n, "y in place", p, cols);
    memcpy(b.dz[0] + PAD, b.dy, (size_t)b.n * 4);
    sq_rowquant_grad_cpu(b.dz[0] + PAD, NULL, NULL, b.dz[0] + PAD, b.z, p, u, l, rows, cols);
    check_pair(b.dz, b.n, "dz in place", p, cols);
    for (int k = 0; k < 2; k++)
        free(b.y[k]), free(b.dz[k]), free(b.du[k]), free(b.dl[k]);
    free(b.z), free(b.dy), free(b.u), free(b.l);
}

static void every_shape(void)
{
    static const struct {
        int64_t rows, cols;
    } sizes[] = {{0, 5},   {1, 1},  {8, 2},   {16, 7},  {8, 8},    {24, 9},  {16, 15},
                 {16, 24}, {9, 33}, {8, 16}, {8, 17}, {8, 31}, {8, 48}, {16, 64}, {8, 100}, {40, 577}, {9, 1536}};
    static const double rates[] = {1, 0.5, 0.3};
    static const int bits[] = {1, 2, 3, 4, 8, 16};
    for (int64_t s = 0; s < SQ_COUNT(sizes); s++)
        for (int64_t b = 0; b < SQ_COUNT(bits); b++)
            for (int k = 0; k < 8; k++)
                for (int64_t r = 0; r < SQ_COUNT(rates); r++) {
                    const struct sq_rowq p = {.bits = bits[b],
                                              .sym = (k & 1) && bits[b] > 1,
                                              .zero = k & 2,
                                              .group = k & 4 ? 32 : 0,
                                              .rate = rates[r]};
                    compare(sizes[s].rows, sizes[s].cols, &p, r != 0 || k & 1);
                }
    const struct sq_rowq odd = {.bits = 4, .zero = true, .group = 5, .rate = 0.5};
    compare(7, 93, &odd, true);
}

static void test_cpu_equals_ref(void **state)
{
    (void)state;
    EACH_LEVEL(level) {
        level_set(level);
        every_shape();
    }
}

/* `tries` grids of n channels: every level has the reference's bits, which agree with what rounding does. */
static void compare_errors(int64_t n, int64_t tries)
{
    enum { N = 600, TRIES = 35 };
    const struct sq_rowq p = {.bits = 3, .zero = n % 2, .rate = 1};
    struct sq_rng r = sq_rng_init(9, SQ_RNG_TEST, (uint64_t)n, 0, 0, 0);
    float z[N], w[N], y[N], s[TRIES], zp[TRIES];
    double ref[TRIES], cpu[TRIES + 1];
    for (int64_t i = 0; i < n; i++)
        z[i] = (float)(sq_rng_normal(&r) + 2), w[i] = (float)sq_rng_uniform(&r);
    sq_rowquant_grid(s, zp, z, &p, NULL, NULL, 1, n);
    for (int64_t t = 1; t < tries; t++)
        s[t] = s[0] / (1 + 0.1f * (float)t), zp[t] = t % 3 ? zp[0] : 40;
    for (int weighted = 0; weighted < 2; weighted++) {
        const float *weight = weighted ? w : NULL;
        sq_rowquant_error_ref(ref, z, weight, &p, s, zp, tries, n);
        EACH_LEVEL(level) {
            level_set(level);
            cpu[tries] = 12345;
            sq_vec->rowquant_error(cpu, z, weight, &p, s, zp, tries, n);
            assert_memory_equal(ref, cpu, (size_t)tries * sizeof *ref);
            assert_true(cpu[tries] == 12345);
        }
        double sum = 0;
        sq_rowquant_ref(y, z, &p, NULL, NULL, 1, n);
        for (int64_t i = 0; i < n; i++)
            sum += pow((double)z[i] - (double)y[i], 2) * (weighted ? (double)w[i] : 1);
        assert_true(fabs(sum - ref[0]) <= 1e-5 * sum);
    }
}

static void test_error(void **state)
{
    (void)state;
    for (int64_t n = 1; n < 80; n += 3)
        compare_errors(n, 3);
    for (int64_t tries = 1; tries <= 35; tries++)
        compare_errors(600, tries);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),       cmocka_unit_test(test_odd_goldens),
        cmocka_unit_test(test_zero_flag),     cmocka_unit_test(test_dequant),
        cmocka_unit_test(test_zero_gradient), cmocka_unit_test(test_identity_and_empty),
        cmocka_unit_test(test_rtn_codes),     cmocka_unit_test(test_cpu_equals_ref),
        cmocka_unit_test(test_error),         cmocka_unit_test(test_zero_points_on_a_tie),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
