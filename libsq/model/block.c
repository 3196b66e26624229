#include "sq/block.h"

#include <string.h>

#include "sq/work.h"

#include "trace.h"

/* Arrays start on cache lines; the gap is zero and belongs to nobody. */
enum { LINE = 16 };

static int64_t padded(int64_t n)
{
    return (n + LINE - 1) / LINE * LINE;
}

/* Floats that n elements take. */
static int64_t room(enum sq_dtype type, int64_t n)
{
    return padded(type == SQ_BF16 ? (n + 1) / 2 : n);
}

/* Walk over the owned arrays of a block in their order: with base NULL only count, else set the pointers. */
static int64_t carve(struct sq_block *b, float *base, bool weights)
{
    const struct sq_config *cfg = b->cfg;
    int64_t at = 0;
    for (int64_t i = 0; i < b->nlinear; i++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, cfg, i);
        if (base && weights)
            b->w[i] = base + at;
        at += weights ? room(b->type, rows * cols) : 0;
        if (!sq_linear_has_bias(cfg, i))
            continue;
        if (base)
            b->bias[i] = base + at;
        at += padded(rows);
    }
    for (int g = 0; g < SQ_GAINS; g++) {
        const int64_t n = sq_gain_size(cfg, (enum sq_gain_id)g);
        if (base)
            b->gain[g] = n ? base + at : NULL;
        at += padded(n);
    }
    if (cfg->experts > 0) {
        if (base)
            b->router = base + at;
        at += padded(cfg->experts * cfg->hidden);
    }
    return at;
}

static int block_alloc(const struct sq_block *b, void *out, size_t bytes)
{
    return b->home ? b->home->alloc(out, bytes) : sq_alloc_bytes(out, (int64_t)bytes, 1);
}

static void block_free(const struct sq_block *b, void *x)
{
    if (b->home)
        b->home->release(x);
    else
        sq_free(x);
}

static int block_new(struct sq_block *b, const struct sq_config *cfg, enum sq_dtype type, const struct sq_ops *home,
                     bool weights)
{
    int rc;
    SQ_ASSERT(type == SQ_F32 || type == SQ_BF16);
    *b = (struct sq_block){.cfg = cfg, .nlinear = sq_config_linears(cfg), .type = type, .home = home};
    b->count = carve(b, NULL, weights);
    SQ_TRY(sq_alloc(&b->w, b->nlinear));
    SQ_TRY(sq_alloc(&b->bias, b->nlinear));
    SQ_TRY(block_alloc(b, &b->all, (size_t)b->count * sizeof *b->all));
    carve(b, b->all, weights);
    return 0;
out:
    sq_block_release(b);
    return rc;
}

int sq_block_new(struct sq_block *b, const struct sq_config *cfg, enum sq_dtype type)
{
    return block_new(b, cfg, type, NULL, true);
}

int sq_block_new_at(struct sq_block *b, const struct sq_config *cfg, enum sq_dtype type, const struct sq_ops *home)
{
    return block_new(b, cfg, type, home, true);
}

int sq_block_frame(struct sq_block *b, const struct sq_config *cfg, enum sq_dtype type)
{
    return block_new(b, cfg, type, NULL, false);
}

static void put(struct sq_block *to, const struct sq_block *host)
{
    const struct sq_config *cfg = to->cfg;
    const struct sq_ops *home = to->home;
    for (int64_t i = 0; i < to->nlinear; i++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, cfg, i);
        home->put(to->w[i], host->w[i], (size_t)(rows * cols) * sq_dtype_size(to->type));
        if (to->bias[i])
            home->put(to->bias[i], host->bias[i], (size_t)rows * sizeof(float));
    }
    for (int g = 0; g < SQ_GAINS; g++)
        if (to->gain[g])
            home->put(to->gain[g], host->gain[g], (size_t)sq_gain_size(cfg, (enum sq_gain_id)g) * sizeof(float));
    if (to->router)
        home->put(to->router, host->router, (size_t)(cfg->experts * cfg->hidden) * sizeof(float));
}

int sq_block_mirror(struct sq_block *there, const struct sq_block *host, const struct sq_config *cfg,
                    const struct sq_ops *home)
{
    if (!there->all || there->type != host->type) {
        sq_block_release(there);
        const int rc = sq_block_new_at(there, cfg, host->type, home);
        if (rc < 0)
            return rc;
    }
    put(there, host);
    return home->wait();
}

struct sq_mat sq_block_mat(const struct sq_block *b, int64_t linear, bool transposed)
{
    int64_t rows, cols;
    sq_linear_shape(&rows, &cols, b->cfg, linear);
    return (struct sq_mat){b->w[linear], cols, transposed, b->type};
}

int64_t sq_grad_block(int64_t rows)
{
    enum { LEAST = 16 };
    return SQ_MAX(LEAST, (rows + SQ_GRAD_BLOCKS - 1) / SQ_GRAD_BLOCKS);
}

/* Rows of a strip of gradients: large enough that packing the other operand again for each is nothing beside it, on a device
 * that a warp a row keeps it busy. */
int64_t sq_grad_strip(const struct sq_ops *ops, int64_t rows, int64_t cols)
{
    const int64_t block = sq_grad_block(rows), floats = ops == ops->host ? 1 << 23 : 1 << 26;
    return SQ_MIN(rows, SQ_MAX(1, floats / (block * cols)) * block);
}

int64_t sq_coded_linears(const struct sq_config *cfg)
{
    return cfg->experts > 0 ? SQ_GATE : sq_config_linears(cfg);
}

/* As carve(): bytes of the arrays behind the codes. Experts multiply floats: their tokens are gathered first. */
static int64_t carve_codes(struct sq_block *b, char *base)
{
    int64_t at = 0;
    for (int64_t i = 0; i < sq_coded_linears(b->cfg); i++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, b->cfg, i);
        const int64_t four = padded(rows) * 4, one = padded(rows * cols);
        if (base)
            b->code[i] = (struct sq_codes){.q = (void *)(base + at + 3 * four),
                                           .ld = cols,
                                           .scale = (void *)(base + at),
                                           .zero = (void *)(base + at + four),
                                           .sum = (void *)(base + at + 2 * four)};
        at += 3 * four + one;
    }
    return at;
}

int sq_block_codes(struct sq_block *b)
{
    char *all = NULL;
    int rc;
    SQ_TRY(sq_alloc(&b->code, b->nlinear));
    SQ_TRY(block_alloc(b, &all, (size_t)carve_codes(b, NULL)));
    b->code_all = all;
    carve_codes(b, all);
out:
    return rc;
}

static int64_t carve_ends(float **ends, float *base, const struct sq_config *cfg, int64_t group)
{
    const struct sq_rowq q = {.group = group};
    int64_t at = 0;
    for (int64_t i = 0; i < sq_config_linears(cfg); i++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, cfg, i);
        if (base)
            ends[i] = base + at;
        at += 2 * rows * sq_rowq_groups(&q, cols);
    }
    return at;
}

int64_t sq_block_ends_floats(const struct sq_config *cfg, int64_t group)
{
    return carve_ends(NULL, NULL, cfg, group);
}

int sq_block_ends(struct sq_block *b, int64_t group)
{
    int rc;
    SQ_TRY(sq_alloc(&b->ends, b->nlinear));
    SQ_TRY(block_alloc(b, &b->ends_all, (size_t)sq_block_ends_floats(b->cfg, group) * sizeof *b->ends_all));
    carve_ends(b->ends, b->ends_all, b->cfg, group);
    b->ends_group = group;
out:
    return rc;
}

void sq_block_release(struct sq_block *b)
{
    block_free(b, b->ends_all);
    sq_free(b->ends);
    block_free(b, b->code_all);
    sq_free(b->code);
    block_free(b, b->all);
    sq_free(b->bias);
    sq_free(b->w);
    *b = (struct sq_block){0};
}

/* ---- linears -------------------------------------------------------------------------------- */

static bool rounds_products(const struct sq_run *r)
{
    return r->ops->precision == SQ_BF16_PRODUCTS;
}

struct sq_floats sq_operand_in_room(const struct sq_trace *t, float *x, bool read)
{
    return t->xo && !read ? (struct sq_floats){SQ_BF16, t->xo} : sq_f32(x);
}

struct sq_floats sq_operand_grad_room(const struct sq_trace *t, int64_t at, float *dy, bool read)
{
    return t->dyo && !read ? (struct sq_floats){SQ_BF16, t->dyo + at} : sq_f32(dy);
}

/* x as it is, or narrowed to where `to` says. */
static struct sq_operand operand(struct sq_floats to, struct sq_floats x, const struct sq_ops *ops, int64_t n,
                                 int64_t cols)
{
    if (to.type != x.type)
        ops->narrow(to, sq_f32_of(x), n * cols);
    return (struct sq_operand){.x = x.type == SQ_F32 ? x.x : NULL, .as = {to.x, cols, false, to.type}};
}

struct sq_operand sq_operand_in(const struct sq_trace *t, struct sq_floats x, int64_t n, int64_t cols)
{
    return operand(sq_operand_in_room(t, x.x, false), x, t->home, n, cols);
}

struct sq_operand sq_operand_grad(const struct sq_trace *t, int64_t at, struct sq_floats dy, int64_t n, int64_t cols)
{
    return operand(sq_operand_grad_room(t, at, dy.x, false), dy, t->home, n, cols);
}

/* Elements from `first` on of a matrix. */
static struct sq_mat behind(struct sq_mat m, int64_t first)
{
    m.x = (const char *)m.x + (size_t)first * sq_dtype_size(m.type);
    return m;
}

struct sq_operand sq_operand_rows(struct sq_operand o, int64_t first)
{
    return (struct sq_operand){.x = o.x ? o.x + first * o.as.ld : NULL, .as = behind(o.as, first * o.as.ld)};
}

void sq_linear_forward(float *y, const float *base, struct sq_operand x, const struct sq_block *b,
                       const struct sq_run *r, int64_t linear, int64_t n)
{
    int64_t rows, cols;
    sq_linear_shape(&rows, &cols, b->cfg, linear);
    const enum sq_work before = sq_work_begin(SQ_WORK_PRODUCTS);
    const int64_t first = x.codes ? x.codes->cols : 0;
    if (x.codes)
        r->ops->gemm_codes(y, rows, base, x.codes, &b->code[linear], n, rows);
    else if (base)
        r->ops->copy(y, base, (size_t)(n * rows) * sizeof *y);
    if (first < cols)
        r->ops->gemm(y, rows, behind(x.as, first), behind(sq_block_mat(b, linear, true), first), n, rows, cols - first,
                     base || x.codes, rounds_products(r));
    (void)sq_work_begin(before);
    if (b->bias[linear])
        r->ops->bias(y, b->bias[linear], n, rows);
}

void sq_linear_grad_w(const struct sq_grads *g, struct sq_operand dy, struct sq_operand x, const struct sq_block *b,
                      const struct sq_run *r, int64_t linear, int64_t n, struct sq_trace *t)
{
    float *dbias = b->bias[linear] ? t->dbias : NULL;
    int64_t rows, cols;
    sq_linear_shape(&rows, &cols, b->cfg, linear);
    const int64_t wanted = g->columns ? g->columns(g->ctx, linear) : cols;
    if (dbias) {
        SQ_ASSERT(dy.x);
        r->ops->clear(dbias, (size_t)rows * sizeof *dbias);
        r->ops->bias_grad(dbias, dy.x, n, rows);
    }
    for (int64_t first = 0, last; first < rows; first = last) {
        struct sq_mat part = behind(dy.as, first);
        part.transposed = true;
        last = SQ_MIN(first + sq_grad_strip(r->ops, rows, cols), rows);
        const enum sq_work before = sq_work_begin(SQ_WORK_PRODUCTS);
        if (wanted < cols)
            r->ops->clear(t->dw, (size_t)((last - first) * cols) * sizeof *t->dw);
        r->ops->gemm(t->dw, cols, part, x.as, last - first, wanted, n, false, rounds_products(r));
        (void)sq_work_begin(before);
        g->linear(g->ctx, linear, first, last, t->dw, dbias ? dbias + first : NULL);
    }
    if (wanted < cols)
        g->rest(g->ctx, linear, dy.as, behind(x.as, wanted), n, t->low);
}

void sq_linear_grad_x(float *dx, struct sq_operand dy, const struct sq_block *b, const struct sq_run *r, int64_t linear,
                      int64_t n, bool add)
{
    int64_t rows, cols;
    sq_linear_shape(&rows, &cols, b->cfg, linear);
    const enum sq_work before = sq_work_begin(SQ_WORK_PRODUCTS);
    r->ops->gemm(dx, cols, dy.as, sq_block_mat(b, linear, false), n, cols, rows, add, rounds_products(r));
    (void)sq_work_begin(before);
}

int sq_input_stats_new(struct sq_input_stats *s, const struct sq_config *cfg, const struct sq_ops *home)
{
    const int64_t C = cfg->hidden, Q = cfg->heads * cfg->head_dim, F = cfg->ffn * SQ_MAX(cfg->experts, 1);
    void *all = NULL;
    *s = (struct sq_input_stats){.count = 2 * C + Q + F, .home = home};
    const int rc = home->alloc(&all, (size_t)s->count * sizeof(double));
    if (rc < 0)
        return rc;
    s->qkv = all;
    s->out = s->qkv + C;
    s->fc1 = s->out + Q;
    s->fc2 = s->fc1 + C;
    return 0;
}

void sq_input_stats_release(struct sq_input_stats *s)
{
    if (s->home)
        s->home->release(s->qkv);
    *s = (struct sq_input_stats){0};
}
