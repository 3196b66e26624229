/* ceiling HIDDEN HEADS KV FFN BATCH TOKENS LAYERS REPEATS bf16|f32|codes - the matrix products of one training step of
 * sq-window, and nothing else: seconds of each repetition, of the linears and of attention, as two JSON arrays.
 * Linears: forward (codes: of 4 bits, where that is what sq-window would do), and backward in bf16 but for the gradient of
 * the first layer's input. Attention: the two products of the
 * forward and the five of the backward, of each head alone, on half the queries, which is what causality leaves.
 * The reference is what the product layer reaches on them (ops compares it with the bare library). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sq/op.h"
#include "sq/rng.h"

struct linear {
    int64_t out, in;
    float *w, *dw;
    struct sq_codes code;
};

struct bench {
    const struct sq_ops *ops;
    struct linear linear[7];
    float *x, *y; /* [rows, widest], room for the scores of a head */
    int64_t rows, heads, dim, batch, tokens;
    bool bf16;
    struct sq_codes code; /* of x */
};

static int fill(float **out, int64_t n, uint64_t seed)
{
    struct sq_rng rng = sq_rng_init(seed, SQ_RNG_TEST, 0, 0, 0, 0);
    const int rc = sq_alloc(out, n);
    for (int64_t i = 0; rc == 0 && i < n; i++)
        (*out)[i] = (float)(sq_rng_uniform(&rng) - 0.5);
    return rc;
}

/* x [rows, cols] in 4 bits */
static int encode(struct sq_codes *c, const struct sq_ops *ops, const float *x, int64_t rows, int64_t cols)
{
    const struct sq_rowq p = {.bits = 4, .rate = 1};
    int rc;
    c->ld = cols;
    SQ_TRY(sq_alloc(&c->q, rows * cols));
    SQ_TRY(sq_alloc(&c->scale, rows));
    SQ_TRY(sq_alloc(&c->zero, rows));
    SQ_TRY(sq_alloc(&c->sum, rows));
    ops->rowquant_encode(c, x, &p, NULL, NULL, rows, cols);
out:
    return rc;
}

static int prepare(struct bench *b, int64_t hidden, int64_t kv, int64_t ffn, bool codes)
{
    const int64_t shape[7][2] = {{hidden, hidden}, {kv, hidden},  {kv, hidden},  {hidden, hidden},
                                 {ffn, hidden},    {ffn, hidden}, {hidden, ffn}};
    int rc;
    for (int i = 0; i < 7; i++) {
        b->linear[i] = (struct linear){.out = shape[i][0], .in = shape[i][1]};
        SQ_TRY(fill(&b->linear[i].w, shape[i][0] * shape[i][1], 1));
        SQ_TRY(fill(&b->linear[i].dw, shape[i][0] * shape[i][1], 2));
    }
    const int64_t room = SQ_MAX(b->rows * SQ_MAX(hidden, ffn), b->tokens * b->tokens / 2);
    SQ_TRY(fill(&b->x, room, 3));
    SQ_TRY(fill(&b->y, room, 4));
    if (codes && b->ops->fast_codes) {
        SQ_TRY(encode(&b->code, b->ops, b->x, b->rows, SQ_MAX(hidden, ffn)));
        for (int i = 0; i < 7; i++)
            SQ_TRY(encode(&b->linear[i].code, b->ops, b->linear[i].w, shape[i][0], shape[i][1]));
    }
out:
    return rc;
}

/* 1 when the backward needs no gradient of what enters linear i of layer k: q, k, v of the first layer */
static bool is_first(int64_t k, int i)
{
    return k == 0 && i < 3;
}

static void step(const struct bench *b, int64_t layers)
{
    const int64_t n = b->rows;
    for (int64_t k = 0; k < layers; k++)
        for (int i = 0; i < 7; i++) {
            const struct linear *l = &b->linear[i];
            struct sq_codes x = b->code;
            x.ld = x.cols = l->in;
            if (x.q)
                b->ops->gemm_codes(b->y, l->out, NULL, &x, &l->code, n, l->out);
            else
                b->ops->gemm(b->y, l->out, sq_mat(b->x, l->in, false), sq_mat(l->w, l->in, true), n, l->out, l->in, false,
                             b->bf16);
            b->ops->gemm(l->dw, l->in, sq_mat(b->y, l->out, true), sq_mat(b->x, l->in, false), l->out, l->in, n, false, b->bf16);
            if (!is_first(k, i))
                b->ops->gemm(b->x, l->in, sq_mat(b->y, l->out, false), sq_mat(l->w, l->in, false), n, l->in, l->out, false, b->bf16);
        }
}

/* attention's products are f32: no operand is rounded */
static void attend(const struct bench *b, int64_t layers)
{
    const int64_t T = b->tokens, half = SQ_MAX(T / 2, 1), D = b->dim;
    for (int64_t i = 0; i < layers * b->batch * b->heads * 7; i++) {
        if (i % 7 < 3) /* S, S again, the gradient of P */
            b->ops->gemm(b->y, T, sq_mat(b->x, D, false), sq_mat(b->x, D, true), half, T, D, false, false);
        else /* O; the gradients of Q, K, V */
            b->ops->gemm(b->x, D, sq_mat(b->y, T, false), sq_mat(b->linear[0].w, D, false), half, D, T, false, false);
    }
}

static void repeat(const struct bench *b, const char *name, void (*what)(const struct bench *, int64_t), int64_t layers,
                   int64_t times)
{
    what(b, 1);
    printf("\"%s\": [", name);
    for (int64_t i = 0; i < times; i++) {
        const double start = sq_now();
        what(b, layers);
        printf("%s%.6f", i ? ", " : "", sq_now() - start);
    }
    printf("]");
}

int main(int argc, char **argv)
{
    struct bench b = {.bf16 = argc > 9 && strcmp(argv[9], "f32") != 0};
    int rc = 0;
    if (argc != 10)
        SQ_TRY(sq_fail(SQ_E_ARG, "usage: ceiling HIDDEN HEADS KV FFN BATCH TOKENS LAYERS REPEATS bf16|f32|codes"));
    const int64_t hidden = atoll(argv[1]), kv = atoll(argv[3]), layers = atoll(argv[7]), times = atoll(argv[8]);
    b.heads = atoll(argv[2]);
    b.batch = atoll(argv[5]);
    b.tokens = atoll(argv[6]);
    b.rows = b.batch * b.tokens;
    if (hidden < 1 || b.heads < 1 || b.rows < 1 || layers < 1)
        SQ_TRY(sq_fail(SQ_E_ARG, "sizes must be positive"));
    b.dim = hidden / b.heads;
    SQ_TRY(sq_ops_get(&b.ops, SQ_BACKEND_CPU, b.bf16 ? SQ_BF16_PRODUCTS : SQ_F32_PRODUCTS));
    SQ_TRY(prepare(&b, hidden, b.dim * kv, atoll(argv[4]), strcmp(argv[9], "codes") == 0));
    printf("{");
    repeat(&b, "linears", step, layers, times);
    printf(", ");
    repeat(&b, "attention", attend, layers, times);
    printf("}\n");
out:
    if (rc < 0)
        fprintf(stderr, "ceiling: %s\n", sq_errmsg());
    return sq_err_status(rc);
}
