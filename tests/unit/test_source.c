/* models from directories, GGUF files and streams: the same tensors in the same order, and what is
 * refused */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "sq/json.h"
#include "sq/safetensors.h"
#include "sq/source.h"

#include "../gguf_bytes.h"

static char dir[64];

static int set_up(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "build/test_source.XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

static const char *path_of(const char *name)
{
    static char path[4][192];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", dir, name);
    return path[next];
}

static void write_file(const char *name, const void *data, size_t n)
{
    FILE *f = fopen(path_of(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* ---- a llama of one layer: C 4, H 2, KV 1, D 2, F 6, V 8 ---- */

static const struct item {
    const char *name, *gguf;
    int rows, cols;
} items[] = {
    {SQ_EMBED_NAME, "token_embd.weight", 8, 4},
    {"model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight", 0, 4},
    {"model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", 4, 4},
    {"model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", 2, 4},
    {"model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight", 2, 4},
    {"model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight", 4, 4},
    {"model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight", 0, 4},
    {"model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight", 6, 4},
    {"model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight", 6, 4},
    {"model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight", 4, 6},
    {SQ_FINAL_NORM_NAME, "output_norm.weight", 0, 4},
    {SQ_HEAD_NAME, "output.weight", 8, 4},
};

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":4,"
    "\"intermediate_size\":6,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
    "\"num_key_value_heads\":1,\"vocab_size\":8,\"tie_word_embeddings\":%s}";

/* How a checkpoint differs from the good one. */
struct change {
    const char *skip, *rename, *to, *extra, *vector;
    bool tied;
    float head; /* value of the head's first element */
};

static size_t append(char *text, size_t at, const char *fmt, ...) SQ_PRINTF(3, 4);

static size_t append(char *text, size_t at, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    at += (size_t)vsnprintf(text + at, 8192 - at, fmt, ap);
    va_end(ap);
    return at;
}

/* value 100 i + j in element j of item i; the head repeats the embedding but for its first element */
static size_t fill(float *x, int64_t i, const struct change *c)
{
    const int n = (items[i].rows ? items[i].rows : 1) * items[i].cols;
    const bool head = i == SQ_COUNT(items) - 1;
    for (int j = 0; j < n; j++)
        x[j] = (float)(head ? j : 100 * i + j);
    if (head)
        x[0] = c->head;
    return (size_t)n * sizeof *x;
}

static bool same(const char *a, const char *b)
{
    return a && strcmp(a, b) == 0;
}

/* The items from first on, those before last; file name in dir. */
static void write_weights(const char *file, int64_t first, int64_t last, const struct change *c)
{
    static char bytes[16384];
    char head[8192];
    float data[1024];
    size_t at = append(head, 0, "{\"__metadata__\":{}"), end = 0;
    for (int64_t i = first; i < last; i++) {
        const char *name = same(c->rename, items[i].name) ? c->to : items[i].name;
        if (same(c->skip, items[i].name))
            continue;
        const size_t n = fill(data + end / 4, i, c);
        at = append(head, at, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[", name);
        if (items[i].rows && !same(c->vector, name))
            at = append(head, at, "%d,%d", items[i].rows, items[i].cols);
        else
            at = append(head, at, "%zu", n / 4);
        at = append(head, at, "],\"data_offsets\":[%zu,%zu]}", end, end + n);
        end += n;
    }
    if (c->extra)
        at = append(head, at, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[%zu,%zu]}",
                    c->extra, end, end);
    at = append(head, at, "}");
    const uint64_t len = at;
    memcpy(bytes, &len, 8);
    memcpy(bytes + 8, head, at);
    memcpy(bytes + 8 + at, data, end);
    write_file(file, bytes, 8 + at + end);
}

static void write_config(const struct change *c)
{
    char text[1024];
    const int n = snprintf(text, sizeof text, config, c->tied ? "true" : "false");
    write_file("config.json", text, (size_t)n);
}

static int open_changed(struct sq_source **s, const struct change *c)
{
    write_config(c);
    write_weights("model.safetensors", 0, SQ_COUNT(items), c);
    return sq_source_open(s, dir);
}

/* Read the whole source; every tensor under its full name goes to each(). Returns the number of tensors.
 */
static int64_t drain(struct sq_source *s,
                     void (*each)(const char *name, const struct sq_tensor *t, void *arg), void *arg)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    struct sq_layer l = SQ_LAYER_INIT;
    char name[SQ_NAME_MAX + 32];
    int64_t n = 0;
    int rc;
    for (int pass = 0; pass < 2; pass++) {
        while ((rc = sq_source_top(s, &t)) > 0) {
            each(t.name, &t, arg);
            n++;
        }
        if (rc < 0)
            fail_msg("%s", sq_errmsg());
        while (pass == 0 && (rc = sq_source_layer(s, &l)) > 0)
            for (int64_t i = 0; i < l.ntensor; i++, n++) {
                snprintf(name, sizeof name, "model.layers.%d.%s", (int)l.index, l.tensor[i].name);
                each(name, &l.tensor[i], arg);
            }
        if (rc < 0)
            fail_msg("%s", sq_errmsg());
    }
    sq_tensor_release(&t);
    sq_layer_release(&l);
    return n;
}

static void check_value(const char *name, const struct sq_tensor *t, void *arg)
{
    float want[64];
    for (int64_t i = 0; i < SQ_COUNT(items); i++)
        if (strcmp(name, items[i].name) == 0) {
            const size_t n = fill(want, i, arg);
            assert_int_equal(sq_tensor_bytes(t), n);
            assert_memory_equal(want, t->data, n);
            return;
        }
    fail_msg("unknown tensor %s", name);
}

static void directories_are_read(void **state)
{
    (void)state;
    struct sq_source *s = NULL;
    struct change c = {.head = 7};
    assert_int_equal(open_changed(&s, &c), 0);
    assert_int_equal(sq_source_config(s)->hidden, 4);
    assert_int_equal(json_array_size(sq_source_manifest(s)), SQ_COUNT(items));
    assert_int_equal(drain(s, check_value, &c), SQ_COUNT(items));
    sq_source_close(&s);
    sq_source_close(&s);

    /* tied: either name, or both with the same bytes */
    c = (struct change){.tied = true, .skip = SQ_HEAD_NAME};
    assert_int_equal(open_changed(&s, &c), 0);
    assert_int_equal(drain(s, check_value, &c), SQ_COUNT(items) - 1);
    sq_source_close(&s);
    c = (struct change){.tied = true};
    assert_int_equal(open_changed(&s, &c), 0);
    assert_int_equal(drain(s, check_value, &c), SQ_COUNT(items) - 1);
    sq_source_close(&s);
    c = (struct change){.tied = true, .skip = SQ_EMBED_NAME};
    assert_int_equal(open_changed(&s, &c), 0);
    assert_int_equal(drain(s, check_value, &c),
                     SQ_COUNT(items) - 1); /* the head's bytes, the embedding's name */
    sq_source_close(&s);

    c = (struct change){.extra = "model.layers.0.self_attn.rotary_emb.inv_freq"};
    assert_int_equal(open_changed(&s, &c), 0);
    sq_source_close(&s);
}

static void order_is_kept(void **state)
{
    (void)state;
    struct sq_source *s = NULL;
    struct sq_layer l = SQ_LAYER_INIT;
    struct sq_tensor t = SQ_TENSOR_INIT;
    assert_int_equal(open_changed(&s, &(struct change){.head = 1}), 0);
    assert_int_equal(sq_source_layer(s, &l), SQ_E_ARG); /* the embedding comes first */
    assert_int_equal(sq_source_top(s, &t), 1);
    assert_string_equal(t.name, SQ_EMBED_NAME);
    assert_string_equal(sq_source_role(t.name), "embedding");
    assert_int_equal(sq_source_top(s, &t), 0);
    assert_int_equal(sq_source_layer(s, &l), 1);
    assert_int_equal(sq_layer_check(&l, sq_source_config(s)), 0);
    assert_int_equal(sq_source_layer(s, &l), 0);
    assert_int_equal(sq_source_layer(s, &l), 0);
    assert_int_equal(sq_source_top(s, &t), 1);
    assert_string_equal(t.name, SQ_FINAL_NORM_NAME);
    assert_int_equal(sq_source_top(s, &t), 1);
    assert_string_equal(t.name, SQ_HEAD_NAME);
    assert_int_equal(sq_source_top(s, &t), 0);
    sq_tensor_release(&t);
    sq_layer_release(&l);
    sq_source_close(&s);
}

static void checkpoints_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    static const struct {
        struct change c;
        const char *text;
        int rc;
    } cases[] = {
        {{.skip = "model.layers.0.mlp.up_proj.weight"},
         "'model.layers.0.mlp.up_proj.weight' is missing",
         SQ_E_FORMAT},
        {{.skip = SQ_HEAD_NAME}, "'lm_head.weight' is missing", SQ_E_FORMAT},
        {{.skip = SQ_EMBED_NAME}, "'model.embed_tokens.weight' is missing", SQ_E_FORMAT},
        {{.tied = true, .head = 5}, "'lm_head.weight' differs", SQ_E_FORMAT},
        {{.extra = "model.layers.0.self_attn.q_proj.bias"}, "q_proj.bias' is not part", SQ_E_UNSUP},
        {{.extra = "model.layers.1.mlp.up_proj.weight"},
         "layers.1.mlp.up_proj.weight' is not part",
         SQ_E_UNSUP},
        {{.vector = "model.layers.0.mlp.up_proj.weight"},
         "has shape [24], the config says [6, 4]",
         SQ_E_FORMAT},
        {{.rename = SQ_FINAL_NORM_NAME, .to = "model.final_norm.weight"},
         "'model.norm.weight' is missing",
         SQ_E_FORMAT},
    };
    for (int i = 0; i < SQ_COUNT(cases); i++) {
        struct sq_source *s = NULL;
        const int rc = open_changed(&s, &cases[i].c);
        if (rc != cases[i].rc || s || !strstr(sq_errmsg(), cases[i].text) || !strstr(sq_errmsg(), dir))
            fail_msg("case %d: %d %s", i, rc, sq_errmsg());
    }
    assert_int_equal(unlink(path_of("model.safetensors")), 0);
}

static void shards_are_joined(void **state)
{
    (void)state;
    struct sq_source *s = NULL;
    struct change c = {.head = 3};
    char index[4096];
    const int64_t half = 5;
    write_config(&c);
    write_weights("a.safetensors", 0, half, &c);
    write_weights("b.safetensors", half, SQ_COUNT(items), &c);
    const char *const changes[] = {NULL, "../a.safetensors", "c.safetensors", "b.safetensors"};
    for (int k = 0; k < SQ_COUNT(changes); k++) {
        size_t at = append(index, 0, "{\"weight_map\":{");
        for (int64_t i = 0; i < SQ_COUNT(items); i++)
            at = append(index, at, "%s\"%s\":\"%s\"", i ? "," : "", items[i].name,
                        i == 1 && changes[k] ? changes[k]
                        : i < half           ? "a.safetensors"
                                             : "b.safetensors");
        at = append(index, at, "}}");
        write_file("model.safetensors.index.json", index, at);
        const int rc = sq_source_open(&s, dir);
        assert_int_equal(rc, k == 0 ? 0 : k == 2 ? SQ_E_IO : SQ_E_FORMAT);
        if (k == 0)
            assert_int_equal(drain(s, check_value, &c), SQ_COUNT(items));
        else
            assert_null(s);
        sq_source_close(&s);
    }
    assert_int_equal(unlink(path_of("model.safetensors.index.json")), 0);
    assert_int_equal(sq_source_open(&s, dir), SQ_E_IO);
    write_file("pytorch_model.bin", "PK\3\4", 4);
    assert_int_equal(sq_source_open(&s, dir), SQ_E_UNSUP);
    assert_non_null(strstr(sq_errmsg(), "pickle"));
    assert_int_equal(sq_source_open(&s, path_of("pytorch_model.bin")), SQ_E_UNSUP);
    write_file("weights", "\x80\x02}q", 4);
    assert_int_equal(sq_source_open(&s, path_of("weights")), SQ_E_UNSUP);
    assert_int_equal(sq_source_open(&s, path_of("a.safetensors")), SQ_E_ARG);
    assert_int_equal(sq_source_open(&s, path_of("nothing")), SQ_E_IO);
    assert_int_equal(unlink(path_of("config.json")), 0);
    assert_int_equal(sq_source_open(&s, dir), SQ_E_IO);
    assert_non_null(strstr(sq_errmsg(), "config.json"));
}

/* ---- streams ---- */

static struct sq_app app = {.prog = "test", .no_prov = true};

/* What sq-load does. cut: leave out the last layer. */
static void write_stream(const char *name, struct sq_source *s, bool cut)
{
    struct sq_stream *out = NULL;
    struct sq_tensor t = SQ_TENSOR_INIT;
    struct sq_layer l = SQ_LAYER_INIT;
    assert_int_equal(sq_stream_open(&out, path_of(name), SQ_WRITE), 0);
    assert_int_equal(sq_stream_begin(out, NULL, &app), 0);
    assert_int_equal(sq_source_put_head(out, s), 0);
    while (sq_source_top(s, &t) > 0)
        assert_int_equal(sq_stream_put_tensor(out, &t, sq_source_role(t.name), -1), 0);
    while (sq_source_layer(s, &l) > 0)
        if (!cut || l.index + 1 < sq_source_config(s)->layers)
            assert_int_equal(sq_layer_write(out, &l), 0);
    while (sq_source_top(s, &t) > 0)
        assert_int_equal(sq_stream_put_tensor(out, &t, sq_source_role(t.name), -1), 0);
    assert_int_equal(sq_stream_finish(&out), 0);
    sq_tensor_release(&t);
    sq_layer_release(&l);
}

static void check_golden(const char *name, const struct sq_tensor *t, void *arg)
{
    struct sq_tensor want = SQ_TENSOR_INIT;
    const int64_t i = sq_safetensors_find(arg, name);
    assert_true(i >= 0);
    assert_int_equal(sq_safetensors_get(&want, arg, i), 0);
    assert_int_equal(want.dtype, t->dtype);
    assert_int_equal(sq_tensor_bytes(&want), sq_tensor_bytes(t));
    assert_memory_equal(want.data, t->data, sq_tensor_bytes(t));
    sq_tensor_release(&want);
}

static void streams_give_what_directories_give(void **state)
{
    (void)state;
    static const char *const models[] = {"llama-48", "llama3", "qwen2", "qwen3", "qwen3-moe"};
    for (int m = 0; m < SQ_COUNT(models); m++) {
        struct sq_source *a = NULL, *b = NULL;
        struct sq_safetensors *golden = NULL;
        json_t *ja = NULL, *jb = NULL;
        char path[256], file[300];
        snprintf(path, sizeof path, "tests/oracle/goldens/models/%s", models[m]);
        snprintf(file, sizeof file, "%s/model.safetensors", path);
        assert_int_equal(sq_safetensors_open(&golden, file), 0);
        assert_int_equal(sq_source_open(&a, path), 0);
        assert_int_equal(drain(a, check_golden, golden), sq_safetensors_count(golden));
        sq_source_close(&a);
        assert_int_equal(sq_source_open(&a, path), 0);
        write_stream("x.sq", a, false);
        assert_int_equal(sq_source_open(&b, path_of("x.sq")), 0);
        assert_true(sq_source_is_stream(b) && !sq_source_is_stream(a));
        assert_int_equal(drain(b, check_golden, golden), sq_safetensors_count(golden));
        assert_true(json_equal(sq_source_original(a), sq_source_original(b)));
        assert_true(json_equal(sq_source_manifest(a), sq_source_manifest(b)));
        assert_int_equal(sq_source_bytes(a), sq_source_bytes(b));
        assert_int_equal(sq_config_to_json(&ja, sq_source_config(a)), 0);
        assert_int_equal(sq_config_to_json(&jb, sq_source_config(b)), 0);
        assert_true(json_equal(ja, jb));
        json_decref(ja);
        json_decref(jb);
        sq_source_close(&a);
        sq_source_close(&b);
        sq_safetensors_close(&golden);
    }
}

static void cut_streams_are_noticed(void **state)
{
    (void)state;
    struct sq_source *s = NULL;
    struct sq_tensor t = SQ_TENSOR_INIT;
    struct sq_layer l = SQ_LAYER_INIT;
    struct stat st;
    int rc;

    assert_int_equal(open_changed(&s, &(struct change){.head = 1}), 0);
    write_stream("short.sq", s, true);
    sq_source_close(&s);
    assert_int_equal(sq_source_open(&s, path_of("short.sq")), 0);
    assert_int_equal(sq_source_top(s, &t), 1);
    while ((rc = sq_source_top(s, &t)) > 0)
        ;
    assert_int_equal(rc, SQ_E_FORMAT);
    assert_non_null(strstr(sq_errmsg(), "layer 0 of 1 is missing"));
    sq_source_close(&s);

    assert_int_equal(open_changed(&s, &(struct change){.head = 1}), 0);
    write_stream("whole.sq", s, false);
    sq_source_close(&s);
    assert_int_equal(stat(path_of("whole.sq"), &st), 0);
    for (off_t n = 0; n < st.st_size;
         n += 7) { /* any cut, wherever it falls, is an error before the last 0 */
        assert_int_equal(truncate(path_of("whole.sq"), st.st_size - 1 - n), 0);
        rc = sq_source_open(&s, path_of("whole.sq"));
        if (rc == 0)
            while ((rc = sq_source_top(s, &t)) > 0)
                ;
        if (rc == 0)
            while ((rc = sq_source_layer(s, &l)) > 0)
                ;
        if (rc == 0)
            while ((rc = sq_source_top(s, &t)) > 0)
                ;
        assert_int_equal(rc, SQ_E_TRUNC);
        sq_source_close(&s);
    }
    sq_tensor_release(&t);
    sq_layer_release(&l);
}

/* ---- GGUF ---- */

struct gguf_change {
    const char *arch, *skip, *extra_key;
    float extra_value;
    bool tied, quantized_norm;
};

static struct bytes gguf;

static void put_name(const struct gguf_change *c, const char *key, uint32_t value)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", c->arch, key);
    put_u32(&gguf, name, value);
}

/* The model of items[] with heads of D 2: D is raised to dim by key_length, so q and k get 2 dim and dim
 * rows. */
static void write_gguf(const struct gguf_change *c, uint32_t dim, const float *freqs)
{
    static const float zero[64];
    const uint64_t ntensor =
        (uint64_t)SQ_COUNT(items) - (c->tied ? 1 : 0) - (c->skip ? 1 : 0) + (freqs ? 1 : 0);
    char name[96];
    uint64_t at = 0;
    put_head(&gguf, 3, ntensor, 10 + (c->extra_key ? 1 : 0));
    put_text(&gguf, "general.architecture", c->arch);
    put_name(c, "embedding_length", 4);
    put_name(c, "feed_forward_length", 6);
    put_name(c, "block_count", 1);
    put_name(c, "attention.head_count", 2);
    put_name(c, "attention.head_count_kv", 1);
    put_name(c, "attention.key_length", dim);
    snprintf(name, sizeof name, "%s.attention.layer_norm_rms_epsilon", c->arch);
    put_f32(&gguf, name, 1e-5f);
    snprintf(name, sizeof name, "%s.rope.freq_base", c->arch);
    put_f32(&gguf, name, 500000);
    put_text(&gguf, "tokenizer.ggml.model", "gpt2");
    if (c->extra_key)
        put_f32(&gguf, c->extra_key, c->extra_value);
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1)
            put_pad(&gguf, 32);
        for (int64_t i = 0; i < SQ_COUNT(items); i++) {
            int rows = items[i].rows, cols = items[i].cols;
            if ((c->tied && i == SQ_COUNT(items) - 1) || same(c->skip, items[i].gguf))
                continue;
            if (i >= 2 && i <= 4)
                rows = (int)dim * (i == 2 ? 2 : 1);
            if (i == 5)
                cols = (int)dim * 2;
            const int n = (rows ? rows : 1) * cols;
            if (pass == 0) {
                put_tensor(&gguf, items[i].gguf, (uint64_t)rows, (uint64_t)cols, 0, at);
                at += ((uint64_t)n * 4 + 31) / 32 * 32;
                continue;
            }
            for (int j = 0; j < n; j++) {
                const float x = (float)(100 * i + j);
                put(&gguf, &x, 4);
            }
            put_pad(&gguf, 32);
        }
        if (freqs && pass == 0)
            put_tensor(&gguf, "rope_freqs.weight", 0, dim / 2, 0, at);
        if (freqs && pass == 1)
            put(&gguf, freqs, dim / 2 * 4);
        else if (pass == 1)
            put(&gguf, zero, 4);
    }
    write_file("m.gguf", gguf.v, gguf.n);
}

/* llama.cpp's conversion reshapes the rows of a head to (2, D/2) and swaps: row 2 j + h of the file is
 * row h D/2 + j. */
static void check_rows(const char *name, const struct sq_tensor *t, void *arg)
{
    const int64_t dim = arg ? *(const int64_t *)arg : 0;
    for (int64_t i = 0; i < SQ_COUNT(items); i++) {
        if (strcmp(name, items[i].name) != 0)
            continue;
        const float *x = t->data;
        const int64_t cols = t->dim[t->ndim - 1], rows = t->ndim == 2 ? t->dim[0] : 1;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t k = 0; k < cols; k++) {
                const int64_t in = r % (dim ? dim : 1), h = dim ? in / (dim / 2) : 0,
                              j = dim ? in % (dim / 2) : 0;
                const int64_t row = dim && (i == 2 || i == 3) ? r - in + 2 * j + h : r;
                assert_true(x[r * cols + k] == (float)(100 * i + row * cols + k));
            }
        return;
    }
    fail_msg("unknown tensor %s", name);
}

static void gguf_models_are_read(void **state)
{
    (void)state;
    struct sq_source *s = NULL;
    int64_t dim = 8;
    write_gguf(&(struct gguf_change){.arch = "llama"}, 8, NULL);
    assert_int_equal(sq_source_open(&s, path_of("m.gguf")), 0);
    const struct sq_config *c = sq_source_config(s);
    assert_true(c->hidden == 4 && c->heads == 2 && c->kv_heads == 1 && c->head_dim == 8 && c->ffn == 6 &&
                c->vocab == 8);
    assert_true(c->eps == 1e-5 && c->rope_theta == 5e5 && !c->tied);
    assert_string_equal(c->arch, "LlamaForCausalLM");
    assert_int_equal(drain(s, check_rows, &dim), SQ_COUNT(items));
    const struct sq_side *side = sq_source_find_file(s, "tokenizer.gguf.json");
    assert_non_null(side);
    json_t *keys = NULL;
    assert_int_equal(sq_json_parse(&keys, side->data, side->size, "keys"), 0);
    assert_string_equal(json_string_value(json_object_get(keys, "tokenizer.ggml.model")), "gpt2");
    json_decref(keys);
    sq_source_close(&s);

    write_gguf(&(struct gguf_change){.arch = "llama", .tied = true}, 8, NULL);
    assert_int_equal(sq_source_open(&s, path_of("m.gguf")), 0);
    assert_true(sq_source_config(s)->tied);
    assert_int_equal(drain(s, check_rows, &dim), SQ_COUNT(items) - 1);
    sq_source_close(&s);
}

/* The stored factors of Llama 3.1 and 3.2 give their config back. */
static void stretched_frequencies_are_recognised(void **state)
{
    (void)state;
    static const struct {
        double factor, high;
        int64_t original;
    } cases[] = {{8, 4, 8192}, {32, 4, 8192}, {4, 8, 4096}};
    for (int k = 0; k < SQ_COUNT(cases); k++) {
        struct sq_source *s = NULL;
        struct sq_config c = {.head_dim = 64,
                              .rope_theta = 5e5,
                              .rope_factor = cases[k].factor,
                              .rope_low = 1,
                              .rope_high = cases[k].high,
                              .rope_original = cases[k].original};
        float plain[32], stretched[32], factor[32];
        sq_rope_freqs(plain, &c);
        c.rope_type = SQ_ROPE_LLAMA3;
        sq_rope_freqs(stretched, &c);
        for (int i = 0; i < 32; i++)
            factor[i] = plain[i] / stretched[i];
        write_gguf(&(struct gguf_change){.arch = "llama"}, 64, factor);
        if (sq_source_open(&s, path_of("m.gguf")) < 0)
            fail_msg("%s", sq_errmsg());
        const struct sq_config *got = sq_source_config(s);
        assert_int_equal(got->rope_type, SQ_ROPE_LLAMA3);
        assert_true(got->rope_factor == c.rope_factor && got->rope_low == 1 &&
                    got->rope_high == c.rope_high && got->rope_original == c.rope_original);
        sq_source_close(&s);
        factor[3] = 1.5f;
        write_gguf(&(struct gguf_change){.arch = "llama"}, 64, factor);
        assert_int_equal(sq_source_open(&s, path_of("m.gguf")), SQ_E_UNSUP);
    }
}

static void gguf_models_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    static const struct {
        struct gguf_change c;
        const char *text;
        int rc;
    } cases[] = {
        {{.arch = "gpt2"}, "architecture 'gpt2'", SQ_E_UNSUP},
        {{.arch = "llama", .skip = "blk.0.ffn_up.weight"},
         "mlp.up_proj.weight' is missing",
         SQ_E_FORMAT},
        {{.arch = "llama", .skip = "token_embd.weight"}, "token_embd.weight", SQ_E_FORMAT},
        {{.arch = "llama", .extra_key = "llama.attention.sliding_window", .extra_value = 64},
         "sliding_window",
         SQ_E_UNSUP},
        {{.arch = "llama", .extra_key = "llama.logit_scale", .extra_value = 2},
         "logit_scale",
         SQ_E_UNSUP},
        {{.arch = "llama", .extra_key = "llama.rope.scaling.type", .extra_value = 2},
         "rope.scaling.type",
         SQ_E_FORMAT},
        {{.arch = "llama", .extra_key = "llama.context_length", .extra_value = 2},
         "context_length",
         SQ_E_FORMAT},
        {{.arch = "qwen2"}, "q_proj.bias' is missing", SQ_E_FORMAT},
        {{.arch = "qwen3"}, "q_norm.weight' is missing", SQ_E_FORMAT},
    };
    for (int i = 0; i < SQ_COUNT(cases); i++) {
        struct sq_source *s = NULL;
        write_gguf(&cases[i].c, 8, NULL);
        const int rc = sq_source_open(&s, path_of("m.gguf"));
        if (rc != cases[i].rc || s || !strstr(sq_errmsg(), cases[i].text) ||
            !strstr(sq_errmsg(), "m.gguf"))
            fail_msg("case %d: %d %s", i, rc, sq_errmsg());
    }
}

static void non_finite_weights_are_named(void **state)
{
    (void)state;
    static const enum sq_dtype types[] = {SQ_F32, SQ_F16, SQ_BF16, SQ_F64};
    static const uint64_t nan[] = {0x7fc00000, 0x7e00, 0xff80, 0x7ff0000000000000},
                          big[] = {0x7f7fffff, 0x7bff, 0xff7f, 0x7fefffffffffffff};
    for (int k = 0; k < SQ_COUNT(types); k++) {
        struct sq_tensor t = SQ_TENSOR_INIT;
        const int64_t n = 9000;
        assert_int_equal(sq_tensor_new(&t, "w", types[k], 1, &n), 0);
        assert_int_equal(sq_tensor_check_finite(&t), 0);
        memcpy((char *)t.owned + 8191 * sq_dtype_size(types[k]), &big[k], sq_dtype_size(types[k]));
        assert_int_equal(sq_tensor_check_finite(&t), 0);
        memcpy((char *)t.owned + 8999 * sq_dtype_size(types[k]), &nan[k], sq_dtype_size(types[k]));
        assert_int_equal(sq_tensor_check_finite(&t), SQ_E_VALUE);
        assert_non_null(strstr(sq_errmsg(), "tensor 'w': element 8999"));
        sq_tensor_release(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(directories_are_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(order_is_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(checkpoints_that_do_not_fit_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(shards_are_joined, set_up, tear_down),
        cmocka_unit_test_setup_teardown(streams_give_what_directories_give, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cut_streams_are_noticed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gguf_models_are_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(stretched_frequencies_are_recognised, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gguf_models_that_do_not_fit_are_refused, set_up, tear_down),
        cmocka_unit_test(non_finite_weights_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
