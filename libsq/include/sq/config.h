/* sq/config.h - what a decoder-only transformer is made of, read strictly from config.json */
#ifndef SQ_CONFIG_H
#define SQ_CONFIG_H

#include <jansson.h>

#include "sq/base.h"

SQ_BEGIN_DECLS

enum sq_rope_type { SQ_ROPE_DEFAULT, SQ_ROPE_LINEAR, SQ_ROPE_LLAMA3 };

/* Architectures are rows of one table (libsq/model/config.c): name, model_type and these switches. */
struct sq_config {
    char arch[64];       /* "LlamaForCausalLM", ... */
    char model_type[32]; /* "llama", "qwen2", "qwen3" */
    int64_t hidden;      /* C */
    int64_t heads;       /* H */
    int64_t kv_heads;    /* KV; H % KV == 0 */
    int64_t head_dim;    /* D, even */
    int64_t ffn;         /* F */
    int64_t layers;      /* L */
    int64_t vocab;       /* V */
    int64_t max_positions;
    double eps;          /* of RMSNorm */
    bool qkv_bias, o_bias, mlp_bias;
    bool qk_norm;        /* RMSNorm over head_dim on q and k before RoPE (Qwen3) */
    bool tied;           /* head and embedding are one tensor */
    int64_t experts;     /* 0: dense MLP */
    int64_t top;         /* experts per token */
    bool renorm;         /* routing weights divided by their sum */
    enum sq_rope_type rope_type;
    double rope_theta;
    double rope_factor, rope_low, rope_high; /* linear, llama3 */
    int64_t rope_original;                   /* llama3: original_max_position_embeddings */
};

/* From a parsed config.json, older or newer spelling of the keys. An unknown architecture, rope type,
 * activation or a sliding window in use is SQ_E_UNSUP and named; sizes are limited (layers <= 1024,
 * hidden, ffn <= 2^20, vocab <= 2^22, heads <= 4096) so that products of two of them fit easily. */
int sq_config_read(struct sq_config *cfg, const json_t *config) SQ_MUSTUSE;
/* The normalised form that travels in the model record, and back. *out is a new reference. */
int sq_config_to_json(json_t **out, const struct sq_config *cfg) SQ_MUSTUSE;
int sq_config_from_json(struct sq_config *cfg, const json_t *obj) SQ_MUSTUSE;

/* The linears of a layer, in the order of all tables: q k v o, then gate up down of each expert
 * (one "expert" when dense): gate of expert e is SQ_GATE + 3 e. */
enum sq_linear_id { SQ_Q, SQ_K, SQ_V, SQ_O, SQ_GATE, SQ_UP, SQ_DOWN };
enum sq_gain_id { SQ_NORM1, SQ_NORM2, SQ_QNORM, SQ_KNORM, SQ_GAINS };

int64_t sq_config_linears(const struct sq_config *cfg); /* 4 + 3 max(1, experts) */
/* "self_attn.q_proj", "mlp.down_proj", "mlp.experts.3.up_proj"; buf of SQ_LINEAR_NAME bytes is returned */
enum { SQ_LINEAR_NAME = 64 };
const char *sq_linear_name(char *buf, const struct sq_config *cfg, int64_t linear);
/* rows out and columns in of a linear */
void sq_linear_shape(int64_t *rows, int64_t *cols, const struct sq_config *cfg, int64_t linear);
bool sq_linear_has_bias(const struct sq_config *cfg, int64_t linear);
/* "input_layernorm.weight", "self_attn.q_norm.weight", ... */
const char *sq_gain_name(enum sq_gain_id gain);
int64_t sq_gain_size(const struct sq_config *cfg, enum sq_gain_id gain); /* 0: this model has none */

/* inv [D/2]: radians per position of each pair of channels, float32. */
void sq_rope_freqs(float *inv, const struct sq_config *cfg);
/* cos, sin [T, D/2] f32 of positions 0..T-1: frequencies and angles in float32, as transformers computes them. */
void sq_rope_table(float *cos, float *sin, const struct sq_config *cfg, int64_t tokens);

SQ_END_DECLS
#endif
