/* A learned layer, valid at first, spoiled as the input's bytes say (a stream's digests would stop most
 * mutations of its bytes): other types and shapes, missing tensors, strange values, strange schemes. It must
 * merge or be refused; what was merged must load. */
#include <stdlib.h>
#include <string.h>

#include "sq/merge.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const struct sq_config cfg = {.arch = "Qwen2ForCausalLM",
                                     .model_type = "qwen2",
                                     .hidden = 8,
                                     .heads = 2,
                                     .kv_heads = 1,
                                     .head_dim = 4,
                                     .ffn = 12,
                                     .layers = 3,
                                     .vocab = 16,
                                     .eps = 1e-6,
                                     .rope_theta = 1e4,
                                     .qkv_bias = true};

static int add(struct sq_layer *l, const char *linear, const char *part, int ndim, int64_t rows, int64_t cols)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    char name[SQ_NAME_MAX];
    const int64_t dim[2] = {rows, cols};
    snprintf(name, sizeof name, "%s%s", linear, part);
    int rc = sq_tensor_new(&t, name, SQ_F32, ndim, dim);
    for (int64_t i = 0; rc == 0 && i < sq_tensor_count(&t); i++)
        ((float *)t.owned)[i] = (float)(i * 7919 % 31 - 15) / 16;
    return rc < 0 ? rc : sq_layer_add(l, &t);
}

static int build(struct sq_layer *l, const struct sq_scheme *s)
{
    static const struct sq_params_spec spec = {
        .lora = true, .clip = true, .scaling = true, .rank = 2, .clip_start = 2};
    struct sq_params p = {.nparam = 0};
    char name[SQ_LINEAR_NAME];
    int rc;
    l->index = 1;
    l->state = SQ_LEARNING;
    for (int64_t k = 0; k < sq_config_linears(&cfg); k++) {
        int64_t rows, cols;
        sq_linear_name(name, &cfg, k);
        sq_linear_shape(&rows, &cols, &cfg, k);
        SQ_TRY(add(l, name, ".weight", 2, rows, cols));
        if (sq_linear_has_bias(&cfg, k))
            SQ_TRY(add(l, name, ".bias", 1, rows, 1));
    }
    for (int g = 0; g < 2; g++)
        SQ_TRY(add(l, sq_gain_name((enum sq_gain_id)g), "", 1, cfg.hidden, 1));
    SQ_TRY(sq_scheme_to_json(&l->scheme, s));
    SQ_TRY(sq_params_new(&p, &cfg, s, &spec, 1));
    SQ_TRY(sq_params_store(l, &p, &cfg));
out:
    sq_params_release(&p);
    return rc;
}

/* Another shape or type with data of its size, so that only the reader's checks are tried. */
static int reshape(struct sq_tensor *t, uint8_t a, uint8_t b)
{
    char name[SQ_NAME_MAX];
    const int64_t dim[SQ_MAX_DIMS] = {a % 16, b % 16, 1, 2};
    memcpy(name, t->name, sizeof name);
    return sq_tensor_new(t, name, (enum sq_dtype)(a / 16 % SQ_DTYPES), b / 16 % (SQ_MAX_DIMS + 1), dim);
}

static void spoil(struct sq_layer *l, const uint8_t d[4])
{
    static const uint32_t odd[] = {0x7fc00000, 0x7f800000, 0xff800000, 0x7f7fffff,
                                   0x00000001, 0x80000000, 0x5f000000, 0};
    static const char *const key[] = {"wbits", "abits", "group", "symmetric", "rate"};
    struct sq_tensor *t = l->ntensor ? &l->tensor[d[1] % l->ntensor] : NULL;
    switch (d[0] % 6) {
    case 0:
        if (t)
            sq_layer_drop(l, t->name);
        break;
    case 1:
        if (t && reshape(t, d[2], d[3]) < 0)
            sq_layer_drop(l, t->name);
        break;
    case 2: /* one strange value, or a whole tensor of it */
        for (int64_t i = 0; t && t->dtype == SQ_F32 && i < sq_tensor_count(t); i++)
            if (d[3] & 1 || i == d[3] % sq_tensor_count(t))
                memcpy((float *)t->owned + i, &odd[d[2] % SQ_COUNT(odd)], 4);
        break;
    case 3:
        json_object_set_new(l->scheme, key[d[1] % 5],
                            d[3] & 1 ? json_integer(d[2] % 20 - 1) : json_real(d[2] / 64.0));
        break;
    case 4:
        json_object_set_new(l->scheme, key[d[1] % 5], d[2] & 1 ? json_boolean(d[3] & 1) : json_string("x"));
        break;
    default: l->state = (enum sq_state)(d[1] % 4);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const struct sq_scheme s = {.wbits = n ? data[0] % 8 + 1 : 2,
                                .abits = 16,
                                .group = n && data[0] & 128 ? 5 : 0,
                                .sym = n && data[0] & 64 && data[0] % 8,
                                .rate = 1};
    struct sq_layer l = SQ_LAYER_INIT;
    struct sq_block b = {.all = NULL};
    struct sq_merge_counts c = {0};
    const struct sq_ops *ops = NULL;
    sq_log_set("fuzz", SQ_ERROR);
    if (sq_ops_get(&ops, SQ_BACKEND_AUTO, SQ_F32_PRODUCTS) < 0 || build(&l, &s) < 0)
        abort();
    for (size_t i = 1; i + 4 <= n && i < 64; i += 4)
        spoil(&l, data + i);
    if (sq_layer_merge(&l, &cfg, n && data[0] & 32 ? SQ_F16 : SQ_F32, ops) == 0 &&
        (sq_merge_count(&c, &l, &cfg) < 0 || sq_block_load(&b, &cfg, &l) < 0))
        abort();
    sq_block_release(&b);
    sq_layer_release(&l);
    return 0;
}
