/* libsq/model/trace.h - what a block's forward leaves for its backward, private to libsq/model/block*.c
 *
 * Left are the outputs of products (and the attention's), in f32. Whatever lies between two products (norms,
 * rounded activations, the gated product) is computed again from them by the backward: one pass over memory
 * each, by the same operations, so the same bits.
 *
 * Shapes: N = batch * T rows; S = N * top slots of a layer with experts, one for each token that an expert gets. Slots
 * are sorted by expert, then by token. A dense layer has S = N and no routing. */
#ifndef SQ_MODEL_TRACE_H
#define SQ_MODEL_TRACE_H

#include "sq/block.h"

struct sq_trace {
    const struct sq_config *cfg;
    const struct sq_ops *home; /* in whose memory the arrays lie */
    int64_t rows; /* N it was allocated for */
    struct sq_kept *kept; /* where the forward at hand leaves what its backward needs; NULL: here */
    /* for the backward */
    float *qraw, *kraw;                    /* [N,H*D], [N,KV*D] before q/k norm; NULL without it */
    float *q, *k, *v;                      /* after RoPE, before rounding */
    float *out, *lse;                      /* attention [N,H*D], [B,H,T] */
    float *mid;                            /* [N,C] after the attention residual */
    float *gate, *up;                      /* [S,F]; the backward needs them no more once it has their gradients, and may
                                              leave these there */
    float *rrms1, *rrms2, *rrmsq, *rrmsk;  /* [N], [N], [N*H], [N*KV] */
    struct sq_routing routing;             /* of its arrays prob is set aside, the others are made again from it */
    int64_t *first, *own_first;            /* [E+1] routing.begin, the host's: products are queued by their sizes */
    /* workspace */
    float *z, *zq;                         /* [N, max(C, H*D)], of a dense layer max(C, H*D, F): an input of linears and its rounded form, if any;
                                              of both only what something else than products reads, where there is xo */
    float *in, *mul, *dmul, *dlogit;       /* experts: [S,C], [S,F], [S,F], [N,E] */
    double *dshare;                        /* [S] */
    float *qq, *kq, *vq, *dq, *dk, *dv;    /* rounded q, k, v, and gradients: in the memory of gate and up, before they
                                              are made, and after their use */
    uint16_t *xo, *dyo;                    /* operands of products in bf16: inputs of linears [S, max(C, H*D, F)], gradients
                                              of their outputs [S, max(C, (H + 2 KV)*D, 2 F)]; NULL where gemm rounds
                                              them. The backward of a dense layer that rounds nothing needs [S, 2 F + C]:
                                              the end of it lies in zq, which follows dyo and is free then */
    struct sq_codes code;                  /* an input of linears as codes */
    float *dw, *dbias;                     /* gradients of a strip of a linear, and of its bias */
    float *low;                            /* [S,SQ_LOW] for struct sq_grads' rest */
    float *all;                            /* the allocation */
};

/* After a forward of n rows: copies to t->kept what is kept there in bf16. */
void sq_trace_aside(struct sq_trace *t, int64_t n);

static inline bool sq_rounds(const struct sq_run *r)
{
    return r->act.bits < 16;
}

/* An array [n,cols] of one or several products: the floats, and what the products take for them. */
struct sq_operand {
    const float *x; /* NULL: there is only the other */
    struct sq_mat as;
    const struct sq_codes *codes; /* its first channels, or NULL */
};

/* Where what is to be an operand is written: as bf16 at its place where products take that, else to x; to x also what
 * something else is to read. */
struct sq_floats sq_operand_in_room(const struct sq_trace *t, float *x, bool read);
struct sq_floats sq_operand_grad_room(const struct sq_trace *t, int64_t at, float *dy, bool read);
/* An input of linears; a gradient at the output of one, in dyo from element `at` on: narrowed to that place, unless it is
 * there already. Good until the next one there. */
struct sq_operand sq_operand_in(const struct sq_trace *t, struct sq_floats x, int64_t n, int64_t cols);
struct sq_operand sq_operand_grad(const struct sq_trace *t, int64_t at, struct sq_floats dy, int64_t n, int64_t cols);
/* its rows from `first` on, without codes */
struct sq_operand sq_operand_rows(struct sq_operand o, int64_t first);

/* y [n,R] = x [n,K] W' + bias (+ base [n,R], not y, if it is not NULL) for a linear of the block */
void sq_linear_forward(float *y, const float *base, struct sq_operand x, const struct sq_block *b,
                       const struct sq_run *r, int64_t linear, int64_t n);
/* dW = dy' x, strip by strip, and dbias = column sums of dy (which then must be there in f32), to g->linear; what g->columns
 * leaves out, to g->rest; dx = dy W (+ dx if add). x is what forward multiplied. */
void sq_linear_grad_w(const struct sq_grads *g, struct sq_operand dy, struct sq_operand x, const struct sq_block *b,
                      const struct sq_run *r, int64_t linear, int64_t n, struct sq_trace *t);
void sq_linear_grad_x(float *dx, struct sq_operand dy, const struct sq_block *b, const struct sq_run *r, int64_t linear,
                      int64_t n, bool add);
/* Rows of a linear whose gradients are made at once. */
int64_t sq_grad_strip(const struct sq_ops *ops, int64_t rows, int64_t cols);

/* Experts, slots and shares from the probabilities; t->first is not renewed. */
void sq_moe_dispatch(struct sq_trace *t, const struct sq_ops *ops, int64_t n);
/* The MLPs of a layer with experts: y = mid + sum of share * expert; dmid += the gradient at mid. */
void sq_moe_forward(float *y, const struct sq_block *b, const struct sq_run *r, int64_t n, struct sq_trace *t,
                    struct sq_input_stats *stats);
void sq_moe_backward(float *dmid, const struct sq_grads *g, const struct sq_block *b, const struct sq_run *r, int64_t n,
                     struct sq_trace *t);

#endif
