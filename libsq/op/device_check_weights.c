/* The table of sq_device_check, quantizers and the weight pass. */
#include "device_check.h"

#include <math.h>

/* ---- quantizers; z: rows cols bits group rate% flags ---- */

enum { SYM = 1, ZERO = 2, CLIP = 4, TO16 = 64 };

static struct sq_rowq rowq_of(const int64_t *z)
{
    return (struct sq_rowq){
        .bits = (int)z[2], .group = z[3], .rate = (double)z[4] / 100, .sym = z[5] & SYM, .zero = (z[5] & ZERO) != 0};
}

static int64_t groups_of(const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    return z[0] * sq_rowq_groups(&q, z[1]);
}

static void clipping(struct check_call *c, int64_t n)
{
    check_in(c, SQ_F32, n);
    check_in(c, SQ_F32, n);
}

/* u, l: about 2 +- 1, now and then far away */
static void clip_values(float *u, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        u[i] = i % 7 == 3 ? -8.0f * u[i] : u[i] + 2;
}

static const float *clip(void *const *p, int k, const int64_t *z)
{
    return z[5] & CLIP ? CF(k) : NULL;
}

static struct sq_floats floats_to(void *x, const int64_t *z)
{
    return (struct sq_floats){z[5] & TO16 ? SQ_BF16 : SQ_F32, x};
}

/* y, z u l, y as f32 */
static void quant_args(struct check_call *c)
{
    check_out(c, floats_to(NULL, c->z).type, c->z[0] * c->z[1], CHECK_BITS);
    check_in(c, SQ_F32, c->z[0] * c->z[1]);
    clipping(c, groups_of(c->z));
    check_scratch(c, c->z[0] * c->z[1]);
}

static void quant_values(void *const *p, const int64_t *z)
{
    clip_values(F(2), groups_of(z));
    clip_values(F(3), groups_of(z));
}

static void quant_ref(void *const *p, const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    check_reference()->rowquant(sq_f32(F(4)), CF(1), &q, clip(p, 2, z), clip(p, 3, z), z[0], z[1]);
    sq_floats_put(floats_to(p[0], z), CF(4), z[0] * z[1]);
}

static void quant_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    o->rowquant(g, floats_to(p[0], z), CF(1), &q, clip(p, 2, z), clip(p, 3, z), z[0], z[1]);
}

#define QUANT_SHAPES                                                                                     \
    {0, 8, 4, 0, 100, 0}, {1, 1, 2, 0, 100, CLIP}, {3, 31, 4, 0, 100, ZERO},                             \
        {5, 33, 2, 0, 50, CLIP | ZERO}, {7, 100, 3, 32, 50, CLIP}, {2, 130, 4, 64, 100, SYM | CLIP},     \
        {9, 20, 8, 0, 70, SYM}, {4, 70, 16, 0, 100, CLIP}, {33, 128, 2, 128, 100, CLIP | ZERO},          \
        {2, 600, 4, 0, 100, 0}, {3, 10, 4, 3, 40, CLIP}

static const int64_t quant_shapes[][CHECK_DIMS] = {
    QUANT_SHAPES, {0, 8, 4, 0, 100, TO16}, {3, 31, 4, 0, 100, TO16}, {9, 21, 8, 0, 70, SYM | TO16},
    {2, 600, 4, 0, 100, TO16}, {4, 70, 16, 0, 100, TO16}};
static const int64_t quant_grad_shapes[][CHECK_DIMS] = {QUANT_SHAPES};

/* dz du dl, dy z u l: sums of up to a row in double, in another order; a share of a sum of both signs may cancel to
 * 2^-20 of its terms, so 2^-53 become 2^-33: below U^2 squared, but for the rounding to float */
static void quant_grad_args(struct check_call *c)
{
    const int64_t n = c->z[0] * c->z[1], groups = groups_of(c->z);
    check_out(c, SQ_F32, n, CHECK_FEW);
    check_out(c, SQ_F32, groups, CHECK_FEW);
    check_out(c, SQ_F32, groups, CHECK_FEW);
    check_in(c, SQ_F32, n);
    check_in(c, SQ_F32, n);
    clipping(c, groups);
}

/* of rowquant_grad and rowquant_encode */
static void quant_grad_values(void *const *p, const int64_t *z)
{
    clip_values(F(5), groups_of(z));
    clip_values(F(6), groups_of(z));
}

static void quant_grad_ref(void *const *p, const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    const bool clips = z[5] & CLIP;
    check_reference()->rowquant_grad(F(0), clips ? F(1) : NULL, clips ? F(2) : NULL, CF(3), CF(4), &q, clip(p, 5, z),
                                     clip(p, 6, z), z[0], z[1]);
}

static void quant_grad_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    const bool clips = z[5] & CLIP;
    o->rowquant_grad(g, F(0), clips ? F(1) : NULL, clips ? F(2) : NULL, CF(3), CF(4), &q, clip(p, 5, z), clip(p, 6, z),
                     z[0], z[1]);
}

/* q scale zero sum, z u l */
static void encode_args(struct check_call *c)
{
    check_out(c, SQ_U8, c->z[0] * (c->z[1] + 5), CHECK_BITS);
    check_out(c, SQ_F32, c->z[0], CHECK_BITS);
    check_out(c, SQ_F32, c->z[0], CHECK_BITS);
    check_out(c, SQ_I32, c->z[0], CHECK_BITS);
    check_in(c, SQ_F32, c->z[0] * c->z[1]);
    clipping(c, c->z[0]);
}

static struct sq_codes encode_to(void *const *p, const int64_t *z)
{
    return (struct sq_codes){.q = p[0], .ld = z[1] + 5, .scale = p[1], .zero = p[2], .sum = p[3]};
}

static void encode_ref(void *const *p, const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    struct sq_codes to = encode_to(p, z);
    check_reference()->rowquant_encode(&to, CF(4), &q, clip(p, 5, z), clip(p, 6, z), z[0], z[1]);
}

static void encode_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_rowq q = rowq_of(z);
    struct sq_codes to = encode_to(p, z);
    o->rowquant_encode(g, &to, CF(4), &q, clip(p, 5, z), clip(p, 6, z), z[0], z[1]);
}

static const int64_t encode_shapes[][CHECK_DIMS] = {
    {0, 8, 4, 0, 100, 0},    {1, 1, 2, 0, 100, CLIP}, {3, 31, 4, 0, 100, ZERO},
    {5, 33, 2, 0, 50, CLIP}, {9, 20, 8, 0, 70, SYM},  {2, 600, 4, 0, 100, CLIP | SYM},
};

/* z: rows cols bits group flags; u l, z weight */
enum { WEIGHTED = 4, NARROW = 8 };

static struct sq_rowq search_of(const int64_t *z)
{
    return (struct sq_rowq){.bits = (int)z[2], .group = z[3], .rate = 1, .sym = z[4] & SYM, .zero = (z[4] & ZERO) != 0};
}

static void search_args(struct check_call *c)
{
    const struct sq_rowq q = search_of(c->z);
    const int64_t groups = c->z[0] * sq_rowq_groups(&q, c->z[1]);
    check_out(c, SQ_F32, groups, CHECK_BITS);
    check_out(c, SQ_F32, groups, CHECK_BITS);
    check_in(c, c->z[4] & NARROW ? SQ_BF16 : SQ_F32, c->z[0] * c->z[1]);
    check_in(c, SQ_F32, c->z[1]);
}

static void search_values(void *const *p, const int64_t *z)
{
    for (int64_t j = 0; j < z[1]; j++)
        F(3)[j] *= F(3)[j];
}

static void search_ref(void *const *p, const int64_t *z)
{
    const struct sq_rowq q = search_of(z);
    check_reference()->rowquant_search(F(0), F(1), (struct sq_floats){z[4] & NARROW ? SQ_BF16 : SQ_F32, p[2]},
                                       z[4] & WEIGHTED ? CF(3) : NULL, &q, z[0], z[1]);
}

static void search_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_rowq q = search_of(z);
    o->rowquant_search(g, F(0), F(1), p[2], z[4] & NARROW ? SQ_BF16 : SQ_F32, z[4] & WEIGHTED ? CF(3) : NULL, &q, z[0],
                       z[1]);
}

static const int64_t search_shapes[][CHECK_DIMS] = {
    {0, 8, 2, 0, 0},          {1, 1, 2, 0, ZERO},          {3, 31, 4, 0, ZERO | WEIGHTED}, {2, 33, 2, 0, SYM},
    {2, 100, 3, 32, WEIGHTED}, {2, 257, 2, 0, NARROW | ZERO}, {1, 9000, 1, 0, WEIGHTED | NARROW},
    {2, 1030, 4, 512, SYM | WEIGHTED}, {20, 16, 2, 8, NARROW},
};

/* ---- the weight pass; z: rows cols bits group rate% flags rank ---- */

enum { COLS = 8, ROWS = 16, W16 = 32, CODES = 128, TIES = 256 };

/* w c r a b u l, from argument k on */
static void weight_args(struct check_call *c)
{
    const int64_t *z = c->z;
    check_in(c, z[5] & W16 ? SQ_BF16 : SQ_F32, z[0] * z[1]);
    check_in(c, SQ_F32, z[1]);
    check_in(c, SQ_F32, z[0]);
    check_in(c, SQ_F32, z[6] * z[1]);
    check_in(c, SQ_F32, z[0] * z[6]);
    clipping(c, groups_of(z));
}

static struct sq_fold_args fold_of(void *const *p, const int64_t *z)
{
    return (struct sq_fold_args){.w = p[0],
                                 .w_type = z[5] & W16 ? SQ_BF16 : SQ_F32,
                                 .c = z[5] & COLS ? CF(1) : NULL,
                                 .r = z[5] & ROWS ? CF(2) : NULL,
                                 .a = z[6] ? CF(3) : NULL,
                                 .b = z[6] ? CF(4) : NULL,
                                 .rank = z[6],
                                 .u = clip(p, 5, z),
                                 .l = clip(p, 6, z),
                                 .q = rowq_of(z),
                                 .rows = z[0],
                                 .cols = z[1]};
}

/* Of three values, so that a group, and a lane's part of it, has many extremes, also with B. */
static void tie(float *w, float *b, const int64_t *z)
{
    for (int64_t i = 0; z[5] & TIES && i < z[0] * z[1]; i++)
        w[i] = (float)(i % 3 - 1);
    for (int64_t i = 0; z[5] & TIES && i < z[0] * z[6]; i++)
        b[i] = 0;
}

/* W as f32 and W~, docs/method.md 3 in its order of operations */
static void make_flat(float *w, float *flat, const struct sq_fold_args *a)
{
    sq_floats_get(w, (struct sq_floats){a->w_type, (void *)(uintptr_t)a->w}, a->rows * a->cols);
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            float f = w[i * a->cols + j], sum = 0;
            f = a->c ? f * a->c[j] : f;
            f = a->r ? f * a->r[i] : f;
            for (int64_t t = 0; t < a->rank; t++)
                sum = t ? sum + a->b[i * a->rank + t] * a->a[t * a->cols + j] : a->b[i * a->rank] * a->a[j];
            flat[i * a->cols + j] = a->rank ? f + sum / (float)a->rank : f;
        }
}

/* Max and min of W~'s groups: extremes have no order, + 0 makes 0 of -0. */
static void find_ends(float *ends, const float *flat, const struct sq_fold_args *a)
{
    const int64_t groups = sq_rowq_groups(&a->q, a->cols), width = a->q.group ? a->q.group : a->cols;
    for (int64_t i = 0; i < a->rows * groups; i++) {
        const int64_t first = i % groups * width, last = SQ_MIN(first + width, a->cols);
        const float *x = flat + i / groups * a->cols;
        float max = x[first], min = x[first];
        for (int64_t j = first; j < last; j++) {
            max = fmaxf(max, x[j]);
            min = fminf(min, x[j]);
        }
        ends[2 * i] = max + 0.0f;
        ends[2 * i + 1] = min + 0.0f;
    }
}

/* to, q scale zero sum, then the weights', then W and W~ of the reference, then ends */
static void fold_args(struct check_call *c)
{
    const int64_t *z = c->z;
    check_out(c, z[5] & TO16 ? SQ_BF16 : SQ_F32, z[0] * z[1], CHECK_BITS);
    check_out(c, SQ_U8, z[0] * z[1], CHECK_BITS);
    check_out(c, SQ_F32, z[0], CHECK_BITS);
    check_out(c, SQ_F32, z[0], CHECK_BITS);
    check_out(c, SQ_I32, z[0], CHECK_BITS);
    weight_args(c);
    check_scratch(c, z[0] * z[1]);
    check_scratch(c, z[0] * z[1]);
    check_out(c, SQ_F32, 2 * groups_of(z), CHECK_BITS);
}

static void fold_values(void *const *p, const int64_t *z)
{
    tie(F(5), F(9), z);
    clip_values(F(10), groups_of(z));
    clip_values(F(11), groups_of(z));
}

static struct sq_codes fold_codes(void *const *p, const int64_t *z)
{
    return (struct sq_codes){.q = p[1], .ld = z[1], .scale = p[2], .zero = p[3], .sum = p[4]};
}

static void fold_ref(void *const *p, const int64_t *z)
{
    const struct sq_fold_args a = fold_of(p + 5, z);
    const struct sq_floats to = floats_to(p[0], z);
    struct sq_codes code = fold_codes(p, z);
    float *flat = F(13);
    make_flat(F(12), flat, &a);
    if (a.q.bits < 16)
        find_ends(F(14), flat, &a);
    if (z[5] & CODES)
        check_reference()->rowquant_encode(&code, flat, &a.q, a.u, a.l, z[0], z[1]);
    check_reference()->rowquant(sq_f32(flat), flat, &a.q, a.u, a.l, z[0], z[1]);
    sq_floats_put(to, flat, z[0] * z[1]);
}

static void fold_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    struct sq_fold_args a = fold_of(p + 5, z);
    struct sq_codes code = fold_codes(p, z);
    a.to = p[0];
    a.to_type = z[5] & TO16 ? SQ_BF16 : SQ_F32;
    a.code = z[5] & CODES ? &code : NULL;
    a.ends = F(14);
    o->fold(g, &a);
}

static const int64_t fold_shapes[][CHECK_DIMS] = {
    {0, 8, 4, 0, 100, COLS, 2},
    {1, 1, 2, 0, 100, CLIP | COLS | ROWS, 1},
    {5, 33, 2, 0, 50, CLIP | ZERO | COLS | W16 | TO16, 4},
    {7, 100, 3, 32, 50, CLIP | ROWS | W16, 3},
    {9, 64, 4, 0, 100, CLIP | COLS | ROWS | CODES | TO16, 4},
    {4, 70, 16, 0, 100, COLS | ROWS, 5},
    {40, 130, 2, 64, 100, SYM | CLIP | W16 | TO16, 0},
    {3, 257, 4, 0, 70, SYM | CODES | W16, 16},
    {6, 70, 2, 32, 50, CLIP | COLS | W16 | TO16, 4},
    {3, 100, 3, 40, 100, CLIP | COLS | ROWS, 6},
    {4, 130, 2, 0, 100, CLIP | ROWS | TIES, 0},
    {5, 256, 2, 0, 100, CLIP | W16 | TO16, 4},
    {3, 388, 2, 0, 49, CLIP | ZERO | COLS | ROWS | W16 | TO16, 4},
    {4, 384, 3, 128, 67, CLIP | COLS | W16 | TO16, 4},
    {3, 260, 4, 0, 100, CLIP | ROWS | CODES, 4},
    {4, 256, 2, 0, 100, CLIP | ROWS | TIES, 4},
    {3, 388, 3, 128, 60, CLIP | COLS | W16 | TO16, 4},
    {4, 256, 16, 0, 100, COLS | ROWS | W16, 4},
    {70, 132, 2, 0, 100, CLIP | ROWS, 4},
};

/* dw du dl da db dc dr, then the weights', W, W~ and ends as above */
static void fold_grad_args(struct check_call *c)
{
    const int64_t *z = c->z;
    check_filled(c, SQ_F32, z[0] * z[1], CHECK_FEW);
    check_out(c, SQ_F32, groups_of(z), CHECK_FEW);
    check_out(c, SQ_F32, groups_of(z), CHECK_FEW);
    check_filled(c, SQ_F32, z[6] * z[1], check_sum_limit(z[0]));
    check_out(c, SQ_F32, z[0] * z[6], check_sum_limit(z[1]));
    check_filled(c, SQ_F32, z[1], check_sum_limit(z[0]));
    check_out(c, SQ_F32, z[0], check_sum_limit(z[1]));
    weight_args(c);
    check_scratch(c, z[0] * z[1]);
    check_scratch(c, z[0] * z[1]);
    check_in(c, SQ_F32, 2 * groups_of(z));
}

static void fold_grad_values(void *const *p, const int64_t *z)
{
    const struct sq_fold_args a = fold_of(p + 7, z);
    tie(F(7), F(11), z);
    clip_values(F(12), groups_of(z));
    clip_values(F(13), groups_of(z));
    make_flat(F(14), F(15), &a);
    find_ends(F(16), F(15), &a);
}

static void fold_sums(float *da, float *db, float *dc, float *dr, const float *g, const float *w,
                      const struct sq_fold_args *a)
{
    for (int64_t t = 0; t < a->rank; t++) {
        for (int64_t i = 0; i < a->rows; i++) {
            double sum = 0;
            for (int64_t j = 0; j < a->cols; j++)
                sum += (double)g[i * a->cols + j] * (double)a->a[t * a->cols + j];
            db[i * a->rank + t] = (float)(sum / (double)a->rank);
        }
        for (int64_t j = 0; j < a->cols; j++) {
            double sum = 0;
            for (int64_t i = 0; i < a->rows; i++)
                sum += (double)g[i * a->cols + j] * (double)a->b[i * a->rank + t];
            da[t * a->cols + j] = (float)((double)da[t * a->cols + j] + sum / (double)a->rank);
        }
    }
    for (int64_t i = 0; dr && i < a->rows; i++) {
        double sum = 0;
        for (int64_t j = 0; j < a->cols; j++)
            sum += (double)g[i * a->cols + j] * (double)w[i * a->cols + j] * (a->c ? (double)a->c[j] : 1);
        dr[i] = (float)sum;
    }
    for (int64_t j = 0; dc && j < a->cols; j++) {
        double sum = (double)dc[j];
        for (int64_t i = 0; i < a->rows; i++)
            sum += (double)g[i * a->cols + j] * (double)w[i * a->cols + j] * (a->r ? (double)a->r[i] : 1);
        dc[j] = (float)sum;
    }
}

static void fold_grad_ref(void *const *p, const int64_t *z)
{
    const struct sq_fold_args a = fold_of(p + 7, z);
    const bool clips = z[5] & CLIP, scales = z[5] & (COLS | ROWS);
    float *w = F(14), *flat = F(15);
    make_flat(w, flat, &a);
    check_reference()->rowquant_grad(F(0), clips ? F(1) : NULL, clips ? F(2) : NULL, F(0), flat, &a.q, a.u, a.l, z[0],
                                     z[1]);
    fold_sums(F(3), F(4), scales ? F(5) : NULL, scales ? F(6) : NULL, F(0), w, &a);
}

static void fold_grad_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    struct sq_fold_args a = fold_of(p + 7, z);
    const bool clips = z[5] & CLIP, scales = z[5] & (COLS | ROWS);
    a.ends = F(16);
    o->fold_grad(g, F(0), clips ? F(1) : NULL, clips ? F(2) : NULL, z[6] ? F(3) : NULL, z[6] ? F(4) : NULL,
                 scales ? F(5) : NULL, scales ? F(6) : NULL, &a);
}

static const struct check_op ops[] = {
    {"rowquant",
     "rows cols bits group rate% flags",
     quant_args,
     quant_values,
     quant_ref,
     quant_dev,
     SHAPES(quant_shapes),
     {6144, 4096, 4, 0, 100, TO16},
     NULL},
    {"rowquant_grad",
     "rows cols bits group rate% flags",
     quant_grad_args,
     quant_grad_values,
     quant_grad_ref,
     quant_grad_dev,
     SHAPES(quant_grad_shapes),
     {4096, 4096, 2, 0, 100, CLIP | ZERO},
     NULL},
    {"rowquant_encode",
     "rows cols bits group rate% flags",
     encode_args,
     quant_grad_values,
     encode_ref,
     encode_dev,
     SHAPES(encode_shapes),
     {6144, 4096, 4, 0, 100, 0},
     NULL},
    {"rowquant_search",
     "rows cols bits group flags",
     search_args,
     search_values,
     search_ref,
     search_dev,
     SHAPES(search_shapes),
     {4096, 4096, 2, 0, WEIGHTED | NARROW},
     NULL},
    {"fold",
     "rows cols bits group rate% flags rank",
     fold_args,
     fold_values,
     fold_ref,
     fold_dev,
     SHAPES(fold_shapes),
     {4096, 4096, 2, 0, 100, CLIP | ZERO | W16 | TO16, 4},
     NULL},
    {"fold_grad",
     "rows cols bits group rate% flags rank",
     fold_grad_args,
     fold_grad_values,
     fold_grad_ref,
     fold_grad_dev,
     SHAPES(fold_shapes),
     {4096, 4096, 2, 0, 100, CLIP | ZERO | W16, 4},
     NULL},
};
const struct check_table check_weights = {ops, SQ_COUNT(ops)};
