/* Architectures are rows of a table; what a row does not say is read from config.json with the defaults
 * of the reference implementation. A switch that changes the arithmetic and that sq does not know is
 * refused by name: a model that is read wrongly is worse than one that is not read. */
#include "sq/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "sq/json.h"

enum {
    MAX_LAYERS = 1024,
    MAX_WIDTH = 1 << 20, /* hidden, ffn, heads * head_dim */
    MAX_VOCAB = 1 << 22,
    MAX_HEADS = 4096,
    MAX_EXPERTS = 1024,
    MAX_POSITIONS = 1 << 30,
};

struct arch {
    const char *name, *model_type;
    bool qkv_bias;       /* q, k, v have a bias whatever the config says */
    bool attention_bias; /* the key attention_bias gives q, k, v, o one */
    bool mlp_bias;       /* the key mlp_bias gives gate, up, down one */
    bool qk_norm, moe, window;
    int64_t head_dim; /* when the config has none; 0: hidden / heads */
    int64_t kv_heads; /* when the config has none; 0: heads */
    int64_t max_positions;
};

static const struct arch archs[] = {
    {.name = "LlamaForCausalLM",
     .model_type = "llama",
     .attention_bias = true,
     .mlp_bias = true,
     .max_positions = 2048},
    {.name = "Qwen2ForCausalLM",
     .model_type = "qwen2",
     .qkv_bias = true,
     .window = true,
     .kv_heads = 32,
     .max_positions = 32768},
    {.name = "Qwen3ForCausalLM",
     .model_type = "qwen3",
     .attention_bias = true,
     .qk_norm = true,
     .window = true,
     .head_dim = 128,
     .kv_heads = 32,
     .max_positions = 32768},
    {.name = "Qwen3MoeForCausalLM",
     .model_type = "qwen3_moe",
     .attention_bias = true,
     .qk_norm = true,
     .moe = true,
     .window = true,
     .kv_heads = 4,
     .max_positions = 32768},
};

static const char *const rope_names[] = {
    [SQ_ROPE_DEFAULT] = "default", [SQ_ROPE_LINEAR] = "linear", [SQ_ROPE_LLAMA3] = "llama3"};

static const struct {
    const char *name;
} gain_names[SQ_GAINS] = {
    [SQ_NORM1] = {"input_layernorm.weight"},
    [SQ_NORM2] = {"post_attention_layernorm.weight"},
    [SQ_QNORM] = {"self_attn.q_norm.weight"},
    [SQ_KNORM] = {"self_attn.k_norm.weight"},
};

static bool present(const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    return v && !json_is_null(v);
}

/* ---- checks that hold for a config from anywhere ---- */

static int check_range(const char *key, int64_t x, int64_t min, int64_t max)
{
    if (x < min || x > max)
        return sq_fail(SQ_E_FORMAT, "'%s' is %" PRId64 ", not in %" PRId64 " .. %" PRId64, key, x, min,
                       max);
    return 0;
}

static int check_positive(const char *key, double x)
{
    if (!(x > 0) || !isfinite(x))
        return sq_fail(SQ_E_FORMAT, "'%s' is %g, not a positive number", key, x);
    return 0;
}

static int check_rope(const struct sq_config *c)
{
    int rc = check_positive("rope_theta", c->rope_theta);
    if (rc == 0 && c->rope_type != SQ_ROPE_DEFAULT)
        rc = check_positive("rope factor", c->rope_factor);
    if (rc == 0 && c->rope_type == SQ_ROPE_LLAMA3) {
        rc = check_positive("low_freq_factor", c->rope_low);
        if (rc == 0 && !(isfinite(c->rope_high) && c->rope_high > c->rope_low))
            rc = sq_fail(SQ_E_FORMAT, "'high_freq_factor' is %g, not above 'low_freq_factor' %g",
                         c->rope_high, c->rope_low);
        if (rc == 0)
            rc = check_range("original_max_position_embeddings", c->rope_original, 1, MAX_POSITIONS);
    }
    return rc;
}

static int check(const struct sq_config *c)
{
    int rc = 0;
    SQ_TRY(check_range("hidden_size", c->hidden, 1, MAX_WIDTH));
    SQ_TRY(check_range("num_attention_heads", c->heads, 1, MAX_HEADS));
    SQ_TRY(check_range("num_key_value_heads", c->kv_heads, 1, MAX_HEADS));
    SQ_TRY(check_range("head_dim", c->head_dim, 2, MAX_WIDTH / c->heads));
    SQ_TRY(check_range("intermediate_size", c->ffn, 1, MAX_WIDTH));
    SQ_TRY(check_range("num_hidden_layers", c->layers, 1, MAX_LAYERS));
    SQ_TRY(check_range("vocab_size", c->vocab, 1, MAX_VOCAB));
    SQ_TRY(check_range("max_position_embeddings", c->max_positions, 1, MAX_POSITIONS));
    SQ_TRY(check_range("num_experts", c->experts, 0, MAX_EXPERTS));
    SQ_TRY(check_range("num_experts_per_tok", c->top, c->experts ? 1 : 0, c->experts));
    SQ_TRY(check_positive("rms_norm_eps", c->eps));
    if (c->heads % c->kv_heads)
        return sq_fail(SQ_E_FORMAT,
                       "'num_key_value_heads' %" PRId64
                       " does not divide 'num_attention_heads' %" PRId64,
                       c->kv_heads, c->heads);
    if (c->head_dim % 2)
        return sq_fail(SQ_E_FORMAT, "'head_dim' %" PRId64 " is odd", c->head_dim);
    SQ_TRY(check_rope(c));
out:
    return rc;
}

/* ---- config.json ---- */

static int find_arch(const struct arch **out, const json_t *config)
{
    const json_t *list = json_object_get(config, "architectures");
    const char *name = NULL, *type = NULL;
    int rc = sq_json_str_opt(&type, config, "model_type");
    if (rc < 0)
        return rc;
    if (present(config, "architectures")) {
        if (!json_is_array(list) || json_array_size(list) != 1 ||
            !json_is_string(json_array_get(list, 0)))
            return sq_fail(SQ_E_FORMAT, "'architectures' is not a list of one name");
        name = json_string_value(json_array_get(list, 0));
    }
    if (!name && !type)
        return sq_fail(SQ_E_FORMAT, "neither 'architectures' nor 'model_type' is there");
    for (int i = 0; i < SQ_COUNT(archs); i++)
        if (strcmp(name ? name : type, name ? archs[i].name : archs[i].model_type) == 0) {
            if (type && strcmp(type, archs[i].model_type) != 0)
                return sq_fail(SQ_E_UNSUP, "architecture '%s' with model_type '%.60s' is not supported",
                               archs[i].name, type);
            *out = &archs[i];
            return 0;
        }
    return sq_fail(SQ_E_UNSUP, "%s '%.80s' is not supported (known: llama, qwen2, qwen3, qwen3_moe)",
                   name ? "architecture" : "model_type", name ? name : type);
}

static int parse_rope_type(enum sq_rope_type *out, const char *name)
{
    for (int i = 0; i < SQ_COUNT(rope_names); i++)
        if (strcmp(name, rope_names[i]) == 0) {
            *out = (enum sq_rope_type)i;
            return 0;
        }
    return sq_fail(SQ_E_UNSUP, "rope type '%.60s' is not supported", name);
}

/* Older files: rope_theta beside rope_scaling (or null); newer ones: both in rope_parameters. */
static int read_rope(struct sq_config *c, const json_t *config)
{
    const char *key = present(config, "rope_parameters") ? "rope_parameters" : "rope_scaling";
    const char *type = "default";
    double partial = 1;
    json_t *r = NULL;
    int rc = 0;

    c->rope_theta = 1e4;
    SQ_TRY(sq_json_real_opt(&c->rope_theta, config, "rope_theta"));
    SQ_TRY(sq_json_real_opt(&partial, config, "partial_rotary_factor"));
    if (present(config, key)) {
        SQ_TRY(sq_json_object(&r, config, key));
        SQ_TRY(sq_json_str_opt(&type, r, "type"));
        SQ_TRY(sq_json_str_opt(&type, r, "rope_type"));
        SQ_TRY(sq_json_real_opt(&c->rope_theta, r, "rope_theta"));
        SQ_TRY(sq_json_real_opt(&partial, r, "partial_rotary_factor"));
        if (present(r, "full_attention") || present(r, "sliding_attention"))
            return sq_fail(SQ_E_UNSUP, "'%s' by layer type is not supported", key);
        if (present(r, "mrope_section"))
            return sq_fail(SQ_E_UNSUP, "rope type 'mrope' is not supported");
    }
    if (partial != 1)
        return sq_fail(SQ_E_UNSUP, "'partial_rotary_factor' %g is not supported", partial);
    SQ_TRY(parse_rope_type(&c->rope_type, type));
    if (c->rope_type != SQ_ROPE_DEFAULT)
        SQ_TRY(sq_json_real(&c->rope_factor, r, "factor"));
    if (c->rope_type == SQ_ROPE_LLAMA3) {
        SQ_TRY(sq_json_real(&c->rope_low, r, "low_freq_factor"));
        SQ_TRY(sq_json_real(&c->rope_high, r, "high_freq_factor"));
        SQ_TRY(sq_json_int(&c->rope_original, r, "original_max_position_embeddings", 1, MAX_POSITIONS));
    }
out:
    return rc;
}

/* Sliding windows are in use only when the switch is on and some layer is behind max_window_layers;
 * newer files spell out the kind of every layer instead. */
static int refuse_window(const struct arch *a, const json_t *config, int64_t layers)
{
    const json_t *kinds = json_object_get(config, "layer_types"), *kind;
    int64_t full = 0;
    bool use = false;
    size_t i;
    int rc = sq_json_bool_opt(&use, config, "use_sliding_window");
    if (rc == 0)
        rc = sq_json_int_opt(&full, config, "max_window_layers", 0, INT64_MAX);
    if (rc < 0)
        return rc;
    json_array_foreach(kinds, i, kind)
        if (!json_is_string(kind) || strcmp(json_string_value(kind), "full_attention") != 0)
            return sq_fail(SQ_E_UNSUP, "layer type '%.60s' is not supported",
                           json_is_string(kind) ? json_string_value(kind) : "?");
    if (a->window && use && present(config, "sliding_window") && full < layers && !json_is_array(kinds))
        return sq_fail(SQ_E_UNSUP, "sliding window attention is not supported");
    return 0;
}

static int read_moe(struct sq_config *c, const json_t *config)
{
    const json_t *dense = json_object_get(config, "mlp_only_layers");
    int64_t step = 1;
    int rc = 0;

    SQ_TRY(sq_json_int(&c->ffn, config, "moe_intermediate_size", 1, MAX_WIDTH));
    SQ_TRY(sq_json_int(&c->experts, config,
                       present(config, "num_experts") ? "num_experts" : "num_local_experts", 1,
                       MAX_EXPERTS));
    SQ_TRY(sq_json_int(&c->top, config, "num_experts_per_tok", 1, c->experts));
    SQ_TRY(sq_json_bool_opt(&c->renorm, config, "norm_topk_prob"));
    SQ_TRY(sq_json_int_opt(&step, config, "decoder_sparse_step", 0, INT64_MAX));
    if (step != 1 || json_array_size(dense) > 0)
        return sq_fail(SQ_E_UNSUP, "a mix of dense and expert layers is not supported");
out:
    return rc;
}

static int read_sizes(struct sq_config *c, const struct arch *a, const json_t *config)
{
    int rc = 0;
    SQ_TRY(sq_json_int(&c->hidden, config, "hidden_size", 1, MAX_WIDTH));
    SQ_TRY(sq_json_int(&c->heads, config, "num_attention_heads", 1, MAX_HEADS));
    SQ_TRY(sq_json_int(&c->layers, config, "num_hidden_layers", 1, MAX_LAYERS));
    SQ_TRY(sq_json_int(&c->vocab, config, "vocab_size", 1, MAX_VOCAB));
    c->kv_heads = a->kv_heads ? a->kv_heads : c->heads;
    SQ_TRY(sq_json_int_opt(&c->kv_heads, config, "num_key_value_heads", 1, MAX_HEADS));
    c->head_dim = a->head_dim ? a->head_dim : c->hidden / c->heads;
    if (!present(config, "head_dim") && !a->head_dim && c->hidden % c->heads)
        return sq_fail(SQ_E_FORMAT,
                       "'num_attention_heads' %" PRId64 " does not divide 'hidden_size' %" PRId64,
                       c->heads, c->hidden);
    SQ_TRY(sq_json_int_opt(&c->head_dim, config, "head_dim", 2, MAX_WIDTH));
    c->max_positions = a->max_positions;
    SQ_TRY(sq_json_int_opt(&c->max_positions, config, "max_position_embeddings", 1, MAX_POSITIONS));
    if (a->moe)
        SQ_TRY(read_moe(c, config));
    else
        SQ_TRY(sq_json_int(&c->ffn, config, "intermediate_size", 1, MAX_WIDTH));
out:
    return rc;
}

static int read_switches(struct sq_config *c, const struct arch *a, const json_t *config)
{
    const char *act = "silu";
    bool attention = false, mlp = false;
    int rc = 0;

    if (present(config, "quantization_config"))
        return sq_fail(SQ_E_UNSUP, "the checkpoint is quantized already ('quantization_config')");
    SQ_TRY(sq_json_str_opt(&act, config, "hidden_act"));
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return sq_fail(SQ_E_UNSUP, "activation '%.60s' is not supported", act);
    c->eps = 1e-6;
    SQ_TRY(sq_json_real_opt(&c->eps, config, "rms_norm_eps"));
    SQ_TRY(sq_json_bool_opt(&c->tied, config, "tie_word_embeddings"));
    SQ_TRY(sq_json_bool_opt(&attention, config, "attention_bias"));
    SQ_TRY(sq_json_bool_opt(&mlp, config, "mlp_bias"));
    c->o_bias = attention && a->attention_bias;
    c->qkv_bias = a->qkv_bias || c->o_bias;
    c->mlp_bias = mlp && a->mlp_bias;
    c->qk_norm = a->qk_norm;
    SQ_TRY(refuse_window(a, config, c->layers));
    SQ_TRY(read_rope(c, config));
out:
    return rc;
}

int sq_config_read(struct sq_config *cfg, const json_t *config)
{
    struct sq_config c;
    const struct arch *a = NULL;
    int rc = 0;

    memset(&c, 0, sizeof c);
    if (!json_is_object(config))
        return sq_fail(SQ_E_FORMAT, "config is not a JSON object");
    SQ_TRY(find_arch(&a, config));
    snprintf(c.arch, sizeof c.arch, "%s", a->name);
    snprintf(c.model_type, sizeof c.model_type, "%s", a->model_type);
    SQ_TRY(read_sizes(&c, a, config));
    SQ_TRY(read_switches(&c, a, config));
    SQ_TRY(check(&c));
    *cfg = c;
out:
    return rc;
}

/* ---- the normalised form ---- */

enum field_kind { INT, REAL, BOOL };

static const struct field {
    const char *key;
    size_t at;
    enum field_kind kind;
} fields[] = {
#define FIELD(name, kind) {#name, offsetof(struct sq_config, name), kind}
    FIELD(hidden, INT),      FIELD(heads, INT),          FIELD(kv_heads, INT),    FIELD(head_dim, INT),
    FIELD(ffn, INT),         FIELD(layers, INT),         FIELD(vocab, INT),       FIELD(max_positions, INT),
    FIELD(eps, REAL),        FIELD(qkv_bias, BOOL),      FIELD(o_bias, BOOL),     FIELD(mlp_bias, BOOL),
    FIELD(qk_norm, BOOL),    FIELD(tied, BOOL),          FIELD(experts, INT),     FIELD(top, INT),
    FIELD(renorm, BOOL),     FIELD(rope_theta, REAL),    FIELD(rope_factor, REAL), FIELD(rope_low, REAL),
    FIELD(rope_high, REAL),  FIELD(rope_original, INT),
#undef FIELD
};

int sq_config_to_json(json_t **out, const struct sq_config *cfg)
{
    json_t *obj = json_object();
    int bad = json_object_set_new(obj, "arch", json_string(cfg->arch));
    bad |= json_object_set_new(obj, "model_type", json_string(cfg->model_type));
    for (int i = 0; i < SQ_COUNT(fields); i++) {
        const char *p = (const char *)cfg + fields[i].at;
        json_t *v = fields[i].kind == INT    ? json_integer(*(const int64_t *)(const void *)p)
                    : fields[i].kind == REAL ? json_real(*(const double *)(const void *)p)
                                             : json_boolean(*(const bool *)(const void *)p);
        bad |= json_object_set_new(obj, fields[i].key, v);
    }
    bad |= json_object_set_new(obj, "rope_type", json_string(rope_names[cfg->rope_type]));
    if (bad) {
        json_decref(obj);
        return sq_fail(SQ_E_NOMEM, "no memory for the config");
    }
    *out = obj;
    return 0;
}

static int read_field(struct sq_config *c, const struct field *f, const json_t *obj)
{
    char *p = (char *)c + f->at;
    if (f->kind == INT)
        return sq_json_int((int64_t *)(void *)p, obj, f->key, 0, INT64_MAX);
    if (f->kind == REAL)
        return sq_json_real((double *)(void *)p, obj, f->key);
    return sq_json_bool((bool *)(void *)p, obj, f->key);
}

int sq_config_from_json(struct sq_config *cfg, const json_t *obj)
{
    struct sq_config c;
    const char *arch = NULL, *type = NULL, *rope = NULL;
    int rc = 0;

    memset(&c, 0, sizeof c);
    SQ_TRY(sq_json_str(&arch, obj, "arch"));
    SQ_TRY(sq_json_str(&type, obj, "model_type"));
    SQ_TRY(sq_json_str(&rope, obj, "rope_type"));
    if (strlen(arch) >= sizeof c.arch || strlen(type) >= sizeof c.model_type)
        return sq_fail(SQ_E_FORMAT, "the architecture's name is too long");
    memcpy(c.arch, arch, strlen(arch) + 1);
    memcpy(c.model_type, type, strlen(type) + 1);
    SQ_TRY(parse_rope_type(&c.rope_type, rope));
    for (int i = 0; i < SQ_COUNT(fields); i++)
        SQ_TRY(read_field(&c, &fields[i], obj));
    SQ_TRY(check(&c));
    *cfg = c;
out:
    return rc;
}

/* ---- linears and gains of a layer ---- */

int64_t sq_config_linears(const struct sq_config *cfg)
{
    return SQ_GATE + 3 * SQ_MAX(1, cfg->experts);
}

const char *sq_linear_name(char *buf, const struct sq_config *cfg, int64_t linear)
{
    static const char *const attention[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                            "self_attn.o_proj"};
    static const char *const mlp[] = {"gate_proj", "up_proj", "down_proj"};
    SQ_ASSERT(linear >= 0 && linear < sq_config_linears(cfg));
    if (linear < SQ_GATE)
        snprintf(buf, SQ_LINEAR_NAME, "%s", attention[linear]);
    else if (cfg->experts)
        snprintf(buf, SQ_LINEAR_NAME, "mlp.experts.%" PRId64 ".%s", (linear - SQ_GATE) / 3,
                 mlp[(linear - SQ_GATE) % 3]);
    else
        snprintf(buf, SQ_LINEAR_NAME, "mlp.%s", mlp[linear - SQ_GATE]);
    return buf;
}

void sq_linear_shape(int64_t *rows, int64_t *cols, const struct sq_config *cfg, int64_t linear)
{
    const int64_t q = cfg->heads * cfg->head_dim, kv = cfg->kv_heads * cfg->head_dim;
    SQ_ASSERT(linear >= 0 && linear < sq_config_linears(cfg));
    if (linear >= SQ_GATE) {
        const bool down = (linear - SQ_GATE) % 3 == 2;
        *rows = down ? cfg->hidden : cfg->ffn;
        *cols = down ? cfg->ffn : cfg->hidden;
        return;
    }
    *rows = linear == SQ_O ? cfg->hidden : linear == SQ_Q ? q : kv;
    *cols = linear == SQ_O ? q : cfg->hidden;
}

bool sq_linear_has_bias(const struct sq_config *cfg, int64_t linear)
{
    return linear >= SQ_GATE ? cfg->mlp_bias : linear == SQ_O ? cfg->o_bias : cfg->qkv_bias;
}

const char *sq_gain_name(enum sq_gain_id gain)
{
    return gain_names[gain].name;
}

int64_t sq_gain_size(const struct sq_config *cfg, enum sq_gain_id gain)
{
    if (gain == SQ_QNORM || gain == SQ_KNORM)
        return cfg->qk_norm ? cfg->head_dim : 0;
    return cfg->hidden;
}
