/* A GGUF file, version 3. Names and shapes are known from the config, types take 4 bytes whatever they are, so the size of
 * the header is known before the first tensor: its room is left free, data follow as they come, and the header is
 * written last. Readers want the list of tensors in the order of their data. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "gguf_tok.h"
#include "packer.h"
#include "sq/fault.h"
#include "sq/json.h"

enum { ALIGNMENT = 32, FILE_VERSION = 3, QUANTIZATION_VERSION = 2, SIDE_FILES = 64 };
#define FILE_TYPE_KEY "general.file_type"

/* ---- keys ---- */

static void arch_u32(struct bytes *b, const char *arch, const char *key, int64_t v)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", arch, key);
    kv_u32(b, full, v);
}

static void arch_f32(struct bytes *b, const char *arch, const char *key, double v)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", arch, key);
    kv_f32(b, full, v);
}

/* "dir/SmolLM2-135M" -> "SmolLM2-135M"; a config often does not say where it is from */
static const char *model_name(const struct packer *p)
{
    const char *path = json_string_value(json_object_get(sq_source_original(p->in), "_name_or_path"));
    const char *slash = path ? strrchr(path, '/') : NULL;
    if (p->o->name)
        return p->o->name;
    return slash && slash[1] ? slash + 1 : path && *path && !slash ? path : p->cfg->model_type;
}

static void model_keys(struct bytes *b, const struct packer *p)
{
    const struct sq_config *c = p->cfg;
    const char *arch = c->model_type, *name = model_name(p);
    char key[96];

    kv_str(b, "general.architecture", arch, strlen(arch));
    kv_str(b, "general.type", "model", 5);
    kv_str(b, "general.name", name, strlen(name));
    kv_u32(b, "general.alignment", ALIGNMENT);
    kv_u32(b, "general.quantization_version", QUANTIZATION_VERSION);
    arch_u32(b, arch, "block_count", c->layers);
    arch_u32(b, arch, "context_length", c->max_positions);
    arch_u32(b, arch, "embedding_length", c->hidden);
    arch_u32(b, arch, "feed_forward_length", c->ffn);
    arch_u32(b, arch, "attention.head_count", c->heads);
    arch_u32(b, arch, "attention.head_count_kv", c->kv_heads);
    arch_u32(b, arch, "attention.key_length", c->head_dim);
    arch_u32(b, arch, "attention.value_length", c->head_dim);
    arch_f32(b, arch, "attention.layer_norm_rms_epsilon", c->eps);
    arch_f32(b, arch, "rope.freq_base", c->rope_theta);
    arch_u32(b, arch, "rope.dimension_count", c->head_dim);
    arch_u32(b, arch, "vocab_size", c->vocab);
    if (c->rope_type == SQ_ROPE_LINEAR) {
        snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
        kv_str(b, key, "linear", 6);
        arch_f32(b, arch, "rope.scaling.factor", c->rope_factor);
    }
}

static int tokenizer_keys(struct bytes *b, const struct packer *p)
{
    struct sq_side side[SIDE_FILES];
    struct side_files files = {.file = side};

    if (p->o->no_tokenizer) {
        gguf_no_tokenizer(b);
        return b->rc;
    }
    for (int64_t i = 0; i < sq_source_files(p->in) && files.n < SIDE_FILES; i++)
        side[files.n++] = *sq_source_file(p->in, i);
    return gguf_tokenizer(b, &files, sq_source_original(p->in), p->cfg->vocab);
}

/* ---- the list of tensors ---- */

static void tensor_info(struct bytes *b, const struct plan_entry *e)
{
    bytes_str(b, e->gguf, strlen(e->gguf));
    bytes_u32(b, e->vector ? 1 : 2);
    bytes_u64(b, (uint64_t)e->cols);
    if (!e->vector)
        bytes_u64(b, (uint64_t)e->rows);
    bytes_u32(b, (uint32_t)e->type);
    bytes_u64(b, (uint64_t)e->offset);
}

/* Everything before the data; entry gives the tensors in their order. */
static int make_header(struct bytes *b, const struct packer *p, struct plan_entry *const *entry)
{
    bytes_add(b, "GGUF", 4);
    bytes_u32(b, FILE_VERSION);
    bytes_u64(b, (uint64_t)p->plan.n);
    bytes_u64(b, (uint64_t)p->keys.pairs);
    bytes_add(b, p->keys.p, p->keys.n);
    for (int64_t i = 0; i < p->plan.n; i++)
        tensor_info(b, entry[i]);
    bytes_pad(b, ALIGNMENT);
    return b->rc;
}

/* file_type follows the type that most weights of the linears have. */
static uint32_t file_type(const struct sq_pack_report *rep)
{
    int best = SQ_PACK_F32;
    for (int i = 0; i < SQ_PACK_TYPES; i++)
        if (rep->linear[i].values > rep->linear[best].values)
            best = i;
    return sq_pack_info((enum sq_pack_type)best)->ftype;
}

/* ---- Llama 3's rope: one factor a frequency, as a tensor ---- */

/* What divides the plain frequencies, as readers apply it. */
static int rope_factors(float *f, const struct sq_config *c)
{
    struct sq_config plain = *c;
    float *base = NULL;
    int rc;

    SQ_TRY(sq_alloc(&base, c->head_dim / 2));
    plain.rope_type = SQ_ROPE_DEFAULT;
    sq_rope_freqs(base, &plain);
    sq_rope_freqs(f, c);
    for (int64_t i = 0; i < c->head_dim / 2; i++)
        f[i] = base[i] / f[i];
out:
    sq_free(base);
    return rc;
}

static int place(struct packer *p, struct plan_entry *e);

static int write_rope(struct packer *p)
{
    struct plan_entry *e = &p->plan.entry[p->plan.n - 1];
    float *f = NULL;
    int rc;

    SQ_TRY(sq_alloc(&f, e->cols));
    SQ_TRY(rope_factors(f, p->cfg));
    e->bytes = e->cols * (int64_t)sizeof *f;
    SQ_TRY(place(p, e));
    if (p->fd >= 0)
        SQ_TRY(pack_write(p, p->fd, f, (size_t)e->bytes, e->offset));
    e->done = true;
    p->done++;
out:
    sq_free(f);
    return rc;
}

/* ---- the format ---- */

static int check_config(const struct sq_config *c)
{
    static const char *const archs[] = {"llama", "qwen2", "qwen3"};
    for (int64_t i = 0; i < SQ_COUNT(archs); i++)
        if (strcmp(c->model_type, archs[i]) == 0 && !c->experts)
            return 0;
    return sq_fail(SQ_E_UNSUP, "gguf of architecture '%s' (model_type '%s') is not supported", c->arch, c->model_type);
}

static int begin(struct packer *p)
{
    struct bytes header = {0};
    int rc;

    SQ_TRY(check_config(p->cfg));
    if (p->cfg->rope_type == SQ_ROPE_LLAMA3) {
        struct plan_entry *e = &p->plan.entry[p->plan.n++];
        *e = (struct plan_entry){.gguf = "rope_freqs.weight", .kind = PLAN_VECTOR, .layer = -1, .rows = 1,
                                 .cols = p->cfg->head_dim / 2, .vector = true, .local = ""};
    }
    SQ_TRY(sq_alloc(&p->order, p->plan.n));
    for (int64_t i = 0; i < p->plan.n; i++)
        p->order[i] = &p->plan.entry[i];
    model_keys(&p->keys, p);
    SQ_TRY(tokenizer_keys(&p->keys, p));
    const size_t keys = p->keys.n;
    kv_u32(&p->keys, FILE_TYPE_KEY, 0);
    SQ_TRY(make_header(&header, p, p->order));
    p->header = p->end = (int64_t)header.n;
    p->keys.n = keys; /* file_type is added again when it is known */
    p->keys.pairs--;
    if (!p->o->dry_run)
        SQ_TRY(pack_make_file(p));
    if (p->cfg->rope_type == SQ_ROPE_LLAMA3)
        SQ_TRY(write_rope(p));
out:
    bytes_release(&header);
    return rc;
}

static int place(struct packer *p, struct plan_entry *e)
{
    e->offset = p->end;
    p->end += (e->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    p->order[p->norder++] = e;
    return 0;
}

static int file(int *fd, struct packer *p, const struct plan_entry *e)
{
    (void)e;
    *fd = p->fd;
    return 0;
}

static int finish(struct packer *p)
{
    struct bytes header = {0};
    int rc;

    SQ_ASSERT(p->norder == p->plan.n);
    for (int64_t i = 0; i < p->plan.n; i++)
        p->plan.entry[i].offset -= p->header;
    kv_u32(&p->keys, FILE_TYPE_KEY, file_type(p->rep));
    SQ_TRY(make_header(&header, p, p->order));
    SQ_ASSERT((int64_t)header.n == p->header);
    p->rep->file_bytes = p->end;
    if (p->fd >= 0) {
        SQ_TRY(pack_write(p, p->fd, header.p, header.n, 0));
        if (sq_fault(SQ_FAULT_WRITE) || ftruncate(p->fd, (off_t)p->end) < 0)
            SQ_TRY(sq_fail(SQ_E_IO, "cannot write '%s': %s", p->o->out, strerror(errno)));
        SQ_TRY(pack_close(p));
    }
out:
    bytes_release(&header);
    return rc;
}

const struct pack_format pack_gguf = {.begin = begin, .place = place, .file = file, .finish = finish};
