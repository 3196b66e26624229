/* The table of sq_device_check, layers with experts: routing, and rows between tokens and slots. Large shapes are a layer of
 * Qwen3-30B-A3B. */
#include "device_check.h"

#include <math.h>

/* ---- routing; z: tokens experts top renorm ---- */

enum { PROB, CHOSEN, SLOT, TOKEN, BEGIN, SHARE, DLOGIT, DSHARE };

static struct sq_routing routing_of(void *const *p, const int64_t *z)
{
    return (struct sq_routing){.tokens = z[0],
                               .experts = z[1],
                               .top = z[2],
                               .renorm = z[3],
                               .prob = p[PROB],
                               .chosen = p[CHOSEN],
                               .slot = p[SLOT],
                               .token = p[TOKEN],
                               .begin = p[BEGIN],
                               .share = p[SHARE]};
}

static void choose_args(struct check_call *c)
{
    check_in(c, SQ_F32, c->z[0] * c->z[1]);
    check_out(c, SQ_I32, c->z[0] * c->z[2], CHECK_BITS);
}

/* Positive; many equal ones in every third row; nobody wants the second of many experts. */
static void probabilities(void *const *p, const int64_t *z)
{
    for (int64_t i = 0; i < z[0]; i++)
        for (int64_t e = 0; e < z[1]; e++) {
            float *x = F(PROB) + i * z[1] + e;
            *x = i % 3 ? fabsf(*x) + 0.01f : (float)((i + 5 * e) % 7 + 1) / 8;
            if (e == 1 && z[1] > 2 * z[2])
                *x = 0;
        }
}

/* NaN in every fifth row, in all of every tenth */
static void choose_values(void *const *p, const int64_t *z)
{
    probabilities(p, z);
    for (int64_t i = 0; i < z[0]; i += 5)
        for (int64_t e = 0; e < z[1]; e++)
            if (i % 10 == 0 || e % 3 == 0)
                F(PROB)[i * z[1] + e] = NAN;
}

static void choose_ref(void *const *p, const int64_t *z)
{
    const struct sq_routing r = routing_of(p, z);
    check_reference()->choose(&r);
}

static void choose_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_routing r = routing_of(p, z);
    o->choose(g, &r);
}

static void assign_args(struct check_call *c)
{
    const int64_t *z = c->z, slots = z[0] * z[2];
    check_in(c, SQ_F32, z[0] * z[1]);
    check_in(c, SQ_I32, slots);
    check_out(c, SQ_I64, slots, CHECK_BITS);
    check_out(c, SQ_I64, slots, CHECK_BITS);
    check_out(c, SQ_I64, z[1] + 1, CHECK_BITS);
    check_out(c, SQ_F32, slots, CHECK_BITS);
}

static void assign_values(void *const *p, const int64_t *z)
{
    probabilities(p, z);
    choose_ref(p, z);
}

static void assign_ref(void *const *p, const int64_t *z)
{
    const struct sq_routing r = routing_of(p, z);
    check_reference()->assign(&r);
}

static void assign_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_routing r = routing_of(p, z);
    o->assign(g, &r);
}

/* in double, in the reference's order */
static void route_grad_args(struct check_call *c)
{
    const int64_t *z = c->z, slots = z[0] * z[2];
    check_in(c, SQ_F32, z[0] * z[1]);
    check_in(c, SQ_I32, slots);
    check_in(c, SQ_I64, slots);
    check_in(c, SQ_I64, slots);
    check_in(c, SQ_I64, z[1] + 1);
    check_in(c, SQ_F32, slots);
    check_out(c, SQ_F32, z[0] * z[1], CHECK_BITS);
    check_in(c, SQ_F64, slots);
}

static void route_grad_values(void *const *p, const int64_t *z)
{
    assign_values(p, z);
    assign_ref(p, z);
}

static void route_grad_ref(void *const *p, const int64_t *z)
{
    const struct sq_routing r = routing_of(p, z);
    check_reference()->route_grad(F(DLOGIT), D(DSHARE), &r);
}

static void route_grad_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    const struct sq_routing r = routing_of(p, z);
    o->route_grad(g, F(DLOGIT), D(DSHARE), &r);
}

static const int64_t routing_shapes[][CHECK_DIMS] = {
    {0, 4, 2, 1},   {1, 1, 1, 0},   {5, 3, 3, 1},      {7, 5, 2, 1},     {40, 33, 1, 0},
    {70, 8, 2, 0},  {33, 70, 9, 1}, {100, 257, 32, 0}, {3000, 6, 2, 1},  {8195, 2, 1, 1},
};

/* ---- rows ---- */

/* In double, rounded once: a neighbour of the reference's value at most, 2 U of it. */
static void softmax_args(struct check_call *c)
{
    check_filled(c, SQ_F32, c->z[0] * c->z[1], CHECK_FEW);
}

static void softmax_ref(void *const *p, const int64_t *z)
{
    check_reference()->softmax(F(0), z[0], z[1]);
}

static void softmax_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->softmax(g, F(0), z[0], z[1]);
}

static const int64_t softmax_shapes[][CHECK_DIMS] = {{0, 3}, {1, 1}, {5, 8}, {9, 33}, {70, 64}, {3, 1000}};

/* z: rows top n slots add scale; y, x scale pick */
static void scatter_args(struct check_call *c)
{
    const int64_t *z = c->z;
    if (z[4])
        check_filled(c, SQ_F32, z[0] * z[2], CHECK_BITS);
    else
        check_out(c, SQ_F32, z[0] * z[2], CHECK_BITS);
    check_in(c, SQ_F32, z[3] * z[2]);
    check_in(c, SQ_F32, z[3]);
    check_in(c, SQ_I64, z[0] * z[1]);
}

static void scatter_values(void *const *p, const int64_t *z)
{
    for (int64_t i = 0; i < z[0] * z[1]; i++)
        ((int64_t *)p[3])[i] = (i * 5 + 3) % z[3];
}

static void scatter_ref(void *const *p, const int64_t *z)
{
    check_reference()->scatter(F(0), z[4], CF(1), z[5] ? CF(2) : NULL, p[3], z[0], z[1], z[2]);
}

static void scatter_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->scatter(g, F(0), z[4], CF(1), z[5] ? CF(2) : NULL, p[3], z[0], z[1], z[2]);
}

static const int64_t scatter_shapes[][CHECK_DIMS] = {
    {0, 2, 3, 4, 1, 1}, {1, 1, 1, 1, 0, 0}, {5, 2, 33, 10, 1, 1}, {7, 3, 300, 21, 0, 0}, {130, 8, 20, 1040, 0, 1}};

/* z: rows n */
static void scale_args(struct check_call *c)
{
    check_filled(c, SQ_F32, c->z[0] * c->z[1], CHECK_BITS);
    check_in(c, SQ_F32, c->z[0]);
}

static void scale_ref(void *const *p, const int64_t *z)
{
    check_reference()->scale_rows(F(0), CF(1), z[0], z[1]);
}

static void scale_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->scale_rows(g, F(0), CF(1), z[0], z[1]);
}

static void dots_args(struct check_call *c)
{
    check_out(c, SQ_F64, c->z[0], CHECK_DOUBLE);
    check_in(c, SQ_F32, c->z[0] * c->z[1]);
    check_in(c, SQ_F32, c->z[0] * c->z[1]);
}

static void dots_ref(void *const *p, const int64_t *z)
{
    check_reference()->row_dots(D(0), CF(1), CF(2), z[0], z[1]);
}

static void dots_dev(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z)
{
    o->row_dots(g, D(0), CF(1), CF(2), z[0], z[1]);
}

static const int64_t matrix_shapes[][CHECK_DIMS] = {{0, 3}, {1, 1}, {5, 33}, {130, 20}, {3, 1000}};

static const struct check_op ops[] = {
    {"softmax", "rows n", softmax_args, NULL, softmax_ref, softmax_dev, SHAPES(softmax_shapes), {6144, 128}, NULL},
    {"choose",
     "tokens experts top renorm",
     choose_args,
     choose_values,
     choose_ref,
     choose_dev,
     SHAPES(routing_shapes),
     {6144, 128, 8, 1},
     NULL},
    {"assign",
     "tokens experts top renorm",
     assign_args,
     assign_values,
     assign_ref,
     assign_dev,
     SHAPES(routing_shapes),
     {6144, 128, 8, 1},
     NULL},
    {"route_grad",
     "tokens experts top renorm",
     route_grad_args,
     route_grad_values,
     route_grad_ref,
     route_grad_dev,
     SHAPES(routing_shapes),
     {6144, 128, 8, 1},
     NULL},
    {"scatter",
     "rows top n slots add scale",
     scatter_args,
     scatter_values,
     scatter_ref,
     scatter_dev,
     SHAPES(scatter_shapes),
     {2048, 8, 2048, 16384, 1, 1},
     NULL},
    {"scale_rows", "rows n", scale_args, NULL, scale_ref, scale_dev, SHAPES(matrix_shapes), {16384, 2048}, NULL},
    {"row_dots", "rows n", dots_args, NULL, dots_ref, dots_dev, SHAPES(matrix_shapes), {16384, 2048}, NULL},
};
const struct check_table check_experts = {ops, SQ_COUNT(ops)};
