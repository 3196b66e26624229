/* Write a seeded random Llama model as a Hugging Face directory with a byte-level tokenizer, for tests:
 * the same options give the same bytes. One row of weights is held at a time. */
#include <math.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "sq/app.h"
#include "sq/rng.h"
#include "sq/tensor.h"

enum { SHARDS_MAX = 64, TENSORS_MAX = 16384, PATH_BYTES = 1024 };

struct item {
    char name[SQ_NAME_MAX];
    int64_t rows, cols; /* rows 0: a gain of cols */
    int64_t shard;
};

static struct item items[TENSORS_MAX];
static int64_t nitem;
static int64_t layers = 2, hidden = 64, heads = 4, kv = 2, ffn = 96, vocab = 256, shards = 1, seed = 1;
static int dtype; /* f32, bf16, f16 */
static bool tied;

static void add(int64_t shard, int64_t rows, int64_t cols, const char *fmt, ...) SQ_PRINTF(4, 5);

static void add(int64_t shard, int64_t rows, int64_t cols, const char *fmt, ...)
{
    struct item *it = &items[nitem++];
    va_list ap;
    SQ_ASSERT(nitem <= TENSORS_MAX);
    va_start(ap, fmt);
    vsnprintf(it->name, sizeof it->name, fmt, ap);
    va_end(ap);
    it->rows = rows;
    it->cols = cols;
    it->shard = shard;
}

static void add_all(void)
{
    static const char *const names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                        "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                        "mlp.down_proj"};
    const int64_t k = hidden / heads * kv;
    const int64_t rows[] = {hidden, k, k, hidden, ffn, ffn, hidden};
    add(0, vocab, hidden, "model.embed_tokens.weight");
    for (int64_t i = 0; i < layers; i++) {
        const int64_t shard = i * shards / layers;
        add(shard, 0, hidden, "model.layers.%" PRId64 ".input_layernorm.weight", i);
        add(shard, 0, hidden, "model.layers.%" PRId64 ".post_attention_layernorm.weight", i);
        for (int j = 0; j < 7; j++)
            add(shard, rows[j], j == 6 ? ffn : hidden, "model.layers.%" PRId64 ".%s.weight", i,
                names[j]);
    }
    add(shards - 1, 0, hidden, "model.norm.weight");
    if (!tied)
        add(shards - 1, vocab, hidden, "lm_head.weight");
}

static size_t item_bytes(const struct item *it)
{
    return (size_t)(SQ_MAX(it->rows, 1) * it->cols) * (dtype == 0 ? 4 : 2);
}

static int open_in(FILE **f, const char *dir, const char *name)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    *f = fopen(path, "wb");
    return *f ? 0 : sq_fail(SQ_E_IO, "cannot write '%s': %s", path, strerror(errno));
}

static int done(FILE *f, const char *name)
{
    const bool bad = ferror(f) != 0;
    return fclose(f) != 0 || bad ? sq_fail(SQ_E_IO, "cannot write '%s'", name) : 0;
}

static void write_header(FILE *f, int64_t shard)
{
    static const char *const names[] = {"F32", "BF16", "F16"};
    char *text = NULL;
    size_t n = 0, at = 0;
    FILE *t = open_memstream(&text, &n);
    fprintf(t, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int64_t i = 0; i < nitem; i++) {
        const struct item *it = &items[i];
        if (it->shard != shard)
            continue;
        fprintf(t, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", it->name, names[dtype]);
        if (it->rows)
            fprintf(t, "%" PRId64 ",", it->rows);
        fprintf(t, "%" PRId64 "],\"data_offsets\":[%zu,%zu]}", it->cols, at, at + item_bytes(it));
        at += item_bytes(it);
    }
    fputc('}', t);
    for (long here = ftell(t); here % 8; here++)
        fputc(' ', t);
    fclose(t);
    const uint64_t len = n;
    fwrite(&len, 8, 1, f);
    fwrite(text, 1, n, f);
    free(text);
}

static void write_item(FILE *f, int64_t index, float *row, uint16_t *half)
{
    const struct item *it = &items[index];
    struct sq_rng r = sq_rng_init((uint64_t)seed, SQ_RNG_TEST, (uint64_t)index, 0, 0, 0);
    const double sd = it->rows ? 1 / sqrt((double)it->cols) : 0.1, mean = it->rows ? 0 : 1;
    for (int64_t i = 0; i < SQ_MAX(it->rows, 1); i++) {
        for (int64_t j = 0; j < it->cols; j++)
            row[j] = (float)(mean + sd * sq_rng_normal(&r));
        for (int64_t j = 0; dtype && j < it->cols; j++)
            half[j] = dtype == 1 ? sq_f32_to_bf16(row[j]) : sq_f32_to_f16(row[j]);
        fwrite(dtype ? (void *)half : (void *)row, dtype ? 2 : 4, (size_t)it->cols, f);
    }
}

static int write_shard(const char *dir, int64_t shard, const char *name)
{
    FILE *f = NULL;
    float *row = NULL;
    uint16_t *half = NULL;
    int rc = 0;
    SQ_TRY(sq_alloc(&row, SQ_MAX(hidden, ffn)));
    SQ_TRY(sq_alloc(&half, SQ_MAX(hidden, ffn)));
    SQ_TRY(open_in(&f, dir, name));
    write_header(f, shard);
    for (int64_t i = 0; i < nitem; i++)
        if (items[i].shard == shard)
            write_item(f, i, row, half);
    rc = done(f, name);
out:
    sq_free(half);
    sq_free(row);
    return rc;
}

static void shard_name(char buf[64], int64_t shard)
{
    if (shards == 1)
        snprintf(buf, 64, "model.safetensors");
    else
        snprintf(buf, 64, "model-%05d-of-%05d.safetensors", (int)shard + 1, (int)shards);
}

static int write_index(const char *dir)
{
    FILE *f = NULL;
    char name[64];
    size_t total = 0;
    int rc = 0;
    for (int64_t i = 0; i < nitem; i++)
        total += item_bytes(&items[i]);
    SQ_TRY(open_in(&f, dir, "model.safetensors.index.json"));
    fprintf(f, "{\"metadata\":{\"total_size\":%zu},\"weight_map\":{", total);
    for (int64_t i = 0; i < nitem; i++) {
        shard_name(name, items[i].shard);
        fprintf(f, "%s\"%s\":\"%s\"", i ? "," : "", items[i].name, name);
    }
    fprintf(f, "}}\n");
    rc = done(f, "model.safetensors.index.json");
out:
    return rc;
}

static int write_config(const char *dir)
{
    static const char *const names[] = {"float32", "bfloat16", "float16"};
    FILE *f = NULL;
    int rc = 0;
    SQ_TRY(open_in(&f, dir, "config.json"));
    fprintf(
        f,
        "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":%" PRId64
        ",\"intermediate_size\":%" PRId64 ",\"num_hidden_layers\":%" PRId64
        ",\"num_attention_heads\":%" PRId64 ",\"num_key_value_heads\":%" PRId64
        ",\"vocab_size\":%" PRId64 ",\"hidden_act\":\"silu\","
        "\"max_position_embeddings\":2048,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,"
        "\"tie_word_embeddings\":%s,\"bos_token_id\":null,\"eos_token_id\":0,\"torch_dtype\":\"%s\"}\n",
        hidden, ffn, layers, heads, kv, vocab, tied ? "true" : "false", names[dtype]);
    rc = done(f, "config.json");
out:
    return rc;
}

/* GPT-2's alphabet: printable bytes stand for themselves, the others for 256, 257, ... in order */
static int write_tokenizer(const char *dir)
{
    FILE *f = NULL;
    int rc = 0, other = 256;
    SQ_TRY(open_in(&f, dir, "tokenizer.json"));
    fprintf(f,
            "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],"
            "\"normalizer\":null,"
            "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
            "\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\","
            "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":"
            "\"BPE\","
            "\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,\"end_of_word_"
            "suffix\":null,"
            "\"fuse_unk\":false,\"byte_fallback\":false,\"vocab\":{");
    for (int b = 0; b < 256; b++) {
        const bool printable = (b > 32 && b < 127) || (b > 160 && b != 173);
        fprintf(f, "%s\"\\u%04x\":%d", b ? "," : "", printable ? (unsigned)b : (unsigned)other++, b);
    }
    fprintf(f, "},\"merges\":[]}}\n");
    rc = done(f, "tokenizer.json");
out:
    return rc;
}

int main(int argc, char **argv)
{
    const struct sq_opt opts[] = {
        SQ_OPT_INT(0, "layers", &layers, 1, 1024, "decoder layers"),
        SQ_OPT_INT(0, "hidden", &hidden, 2, 1 << 14, "channels"),
        SQ_OPT_INT(0, "heads", &heads, 1, 1024, "heads"),
        SQ_OPT_INT(0, "kv-heads", &kv, 1, 1024, "key/value heads"),
        SQ_OPT_INT(0, "ffn", &ffn, 1, 1 << 16, "channels of the MLP"),
        SQ_OPT_INT(0, "vocab", &vocab, 256, 1 << 20, "tokens; the first 256 are bytes"),
        SQ_OPT_INT(0, "shards", &shards, 1, SHARDS_MAX, "safetensors files"),
        SQ_OPT_INT(0, "model-seed", &seed, 0, 1 << 30, "seed of the weights"),
        SQ_OPT_ENUM(0, "dtype", &dtype, "f32|bf16|f16", "of the weights"),
        SQ_OPT_FLAG(0, "tied", &tied, "head and embedding are one tensor"),
        SQ_OPT_END,
    };
    struct sq_app app;
    char name[64];
    int rc = 0;

    sq_app_init(&app, "tiny_model", "DIR", "write a random model for tests", opts, 1, argc, argv);
    if (app.narg != 1 || hidden % heads || heads % kv || hidden / heads % 2 || shards > layers) {
        rc = sq_fail(SQ_E_ARG, "a DIR and sizes that divide are needed");
        goto out;
    }
    if (mkdir(app.arg[0], 0777) < 0 && errno != EEXIST) {
        rc = sq_fail(SQ_E_IO, "cannot make '%s': %s", app.arg[0], strerror(errno));
        goto out;
    }
    add_all();
    SQ_TRY(write_config(app.arg[0]));
    SQ_TRY(write_tokenizer(app.arg[0]));
    for (int64_t i = 0; i < shards; i++) {
        shard_name(name, i);
        SQ_TRY(write_shard(app.arg[0], i, name));
    }
    if (shards > 1)
        SQ_TRY(write_index(app.arg[0]));
out:
    return sq_app_exit(&app, rc);
}
