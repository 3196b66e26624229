/* sq/block.h - one decoder layer: forward and hand-written backward (docs/method.md 2) */
#ifndef SQ_BLOCK_H
#define SQ_BLOCK_H

#include "sq/config.h"
#include "sq/layer.h"
#include "sq/op.h"

SQ_BEGIN_DECLS

/* The arrays of one layer, f32 but for the weights of linears, which may be bf16; f32 blocks also hold gradients. */
struct sq_block {
    const struct sq_config *cfg;
    int64_t nlinear;       /* sq_config_linears(cfg) */
    enum sq_dtype type;    /* of w: SQ_F32 or SQ_BF16 */
    void **w;              /* [nlinear] -> [R,K]; owned, or borrowed from a layer's tensors */
    float **bias;          /* [nlinear] -> [R], NULL where there is none */
    float *gain[SQ_GAINS]; /* NORM1, NORM2 [C]; QNORM, KNORM [D] or NULL */
    float *router;         /* [E,C] or NULL */
    const struct sq_ops *home; /* in whose memory the arrays lie: a device's; NULL or a processor's: the process's */
    float *all;            /* the allocation: every owned array, one after the other */
    int64_t count;         /* floats in it */
    struct sq_codes *code; /* [nlinear] the rounded channels of w once more, or NULL: see sq_block_codes */
    void *code_all;
    float **ends; /* [nlinear] -> [R,G,2], or NULL: see sq_block_ends */
    float *ends_all;
    int64_t ends_group;
};

int sq_block_new(struct sq_block *b, const struct sq_config *cfg, enum sq_dtype type) SQ_MUSTUSE; /* zeroed */
/* the same where ops' arrays lie */
int sq_block_new_at(struct sq_block *b, const struct sq_config *cfg, enum sq_dtype type,
                    const struct sq_ops *home) SQ_MUSTUSE;
/* there = a block of the host's, where ops' arrays lie; made at the first time, and when the type of weights is another */
int sq_block_mirror(struct sq_block *there, const struct sq_block *host, const struct sq_config *cfg,
                    const struct sq_ops *home) SQ_MUSTUSE;
/* without weights: w holds NULLs, to be pointed at matrices of that type */
int sq_block_frame(struct sq_block *b, const struct sq_config *cfg, enum sq_dtype type) SQ_MUSTUSE;
void sq_block_release(struct sq_block *b);
/* Room for codes: a fold that rounds fills them, and a forward that rounds its activations multiplies codes. */
int sq_block_codes(struct sq_block *b) SQ_MUSTUSE;
/* Room, on a device, for the extremes that rounding found in groups of `group` columns (0: rows): a fold that rounds fills them,
 * and the backward of that fold reads them. So they are as new as the folded weights beside them. floats: what they take. */
int sq_block_ends(struct sq_block *b, int64_t group) SQ_MUSTUSE;
int64_t sq_block_ends_floats(const struct sq_config *cfg, int64_t group);
int64_t sq_coded_linears(const struct sq_config *cfg); /* that many of a layer's linears, the first ones, can have codes */
/* A linear's weights W [R,K], or W' */
struct sq_mat sq_block_mat(const struct sq_block *b, int64_t linear, bool transposed);
/* From a layer's tensors: float and learning layers give their original weights, merged layers their dequantized
 * codes (with the scheme of that layer). NaN or Inf: SQ_E_VALUE with tensor name.
 * load: into a new f32 block. view: weights that are all f32 or all bf16 stay where they are, and the layer's tensors must
 * outlive the block; others are loaded. */
int sq_block_load(struct sq_block *b, const struct sq_config *cfg, const struct sq_layer *l) SQ_MUSTUSE;
int sq_block_view(struct sq_block *b, const struct sq_config *cfg, const struct sq_layer *l) SQ_MUSTUSE;

/* Activations of one forward of `batch` samples of `tokens` tokens, for the backward, and workspace; allocated once for the
 * largest batch. */
struct sq_trace;
int sq_trace_new(struct sq_trace **out, const struct sq_config *cfg, const struct sq_ops *home, int64_t batch,
                 int64_t tokens) SQ_MUSTUSE;
void sq_trace_free(struct sq_trace **t);
int64_t sq_trace_bytes(const struct sq_config *cfg, const struct sq_ops *home, int64_t batch, int64_t tokens);

/* What the backward needs of a forward, while the trace serves other layers: in SQ_F32 the forward leaves it there itself; in
 * SQ_BF16 outputs of products are copied there, in half the bytes, queries, keys and what is small in f32. */
struct sq_kept;
int sq_kept_new(struct sq_kept **out, const struct sq_config *cfg, const struct sq_ops *home, int64_t batch,
                int64_t tokens, enum sq_dtype type) SQ_MUSTUSE;
void sq_kept_free(struct sq_kept **k);
int64_t sq_kept_bytes(const struct sq_config *cfg, int64_t batch, int64_t tokens, enum sq_dtype type);
/* Where the next forward leaves it, which has at most the tokens that k was made for; NULL: in the trace, as at first. */
void sq_trace_keep(struct sq_trace *t, struct sq_kept *k);
/* Before the backward of a forward of n rows that left it in k. */
void sq_trace_restore(struct sq_trace *t, struct sq_kept *k, int64_t n);
/* As if kept and restored, in place. */
void sq_trace_round(struct sq_trace *t, enum sq_dtype type, int64_t n);

/* Sums of squares of the inputs of the linears, per input channel, and their count of tokens. */
struct sq_input_stats {
    double *qkv, *out, *fc1, *fc2; /* [C], [H*D], [C], [F] ([E,F] with experts); accumulated */
    int64_t tokens, count;         /* count: of the sums, which lie one behind the other from qkv on */
    const struct sq_ops *home;
};

int sq_input_stats_new(struct sq_input_stats *s, const struct sq_config *cfg, const struct sq_ops *home) SQ_MUSTUSE;
void sq_input_stats_release(struct sq_input_stats *s);

/* How a block runs: all borrowed. */
struct sq_run {
    const struct sq_ops *ops;
    const float *cos, *sin; /* [T, D/2] */
    struct sq_rowq act;     /* activation quantizer; bits >= 16: none */
    int64_t tokens;         /* T */
};

/* y [batch*T, C] = layer(x); y == x allowed. t keeps what the backward needs (and serves as workspace: never NULL).
 * stats may be NULL; a block with codes has none. */
void sq_block_forward(float *y, const float *x, const struct sq_block *b, const struct sq_run *r, int64_t batch,
                      struct sq_trace *t, struct sq_input_stats *stats);
/* What is wanted of a backward, and where it goes. */
struct sq_grads {
    bool input;                     /* the gradient at the layer's input */
    float *gain[SQ_GAINS], *router; /* +=; NULL: not wanted */
    /* called for every linear, for strips of its rows from the first to the last, each of whole blocks of
     * sq_grad_block(R) rows: dw [last - first, K] and dbias [last - first] (NULL without a bias) are the backward's
     * workspace, which the receiver may use up; they hold until it returns */
    void (*linear)(void *ctx, int64_t linear, int64_t first, int64_t last, float *dw, float *dbias);
    /* Of how many leading input channels dw is wanted (NULL: all); of the others it is 0, and `rest`, called behind the last
     * strip, gets what they would be made of: dy [n,R], x [n, K - columns], and space for SQ_LOW floats a row. */
    int64_t (*columns)(void *ctx, int64_t linear);
    void (*rest)(void *ctx, int64_t linear, struct sq_mat dy, struct sq_mat x, int64_t n, float *space);
    void *ctx;
};
enum { SQ_LOW = 16 };

int64_t sq_grad_block(int64_t rows); /* at most SQ_GRAD_BLOCKS of them in a linear */
enum { SQ_GRAD_BLOCKS = 64 };

/* d [batch*T, C]: in, the gradient at the output; out, at the input if that is wanted, else of no use. Gradients of the
 * weights to g. x is what forward was given; t what it left, which is used up: one backward a forward. */
void sq_block_backward(float *d, const struct sq_grads *g, const float *x, const struct sq_block *b,
                       const struct sq_run *r, int64_t batch, struct sq_trace *t);

SQ_END_DECLS
#endif
