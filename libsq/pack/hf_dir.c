/* A Hugging Face directory with dequantized weights: safetensors files, config.json, and the side files as they came.
 * Every tensor has the same dtype, so all headers and offsets are known before the first tensor comes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "packer.h"
#include "sq/fault.h"
#include "sq/json.h"

enum { INDENT = JSON_INDENT(2) };

static int64_t entry_bytes(const struct packer *p, const struct plan_entry *e)
{
    return e->rows * e->cols * (int64_t)sq_dtype_size(p->o->dtype);
}

/* Tensors fill one file after another; one that is larger than a file has its own. */
static int assign_shards(struct packer *p)
{
    int64_t end = 0;
    int shard = 0, rc;

    SQ_TRY(sq_alloc(&p->shard_bytes, p->plan.n));
    for (int64_t i = 0; i < p->plan.n; i++) {
        struct plan_entry *e = &p->plan.entry[i];
        const int64_t n = entry_bytes(p, e);
        if (end > 0 && n > p->o->shard - end) {
            shard++;
            end = 0;
        }
        e->shard = shard;
        e->offset = end;
        end += n;
        p->shard_bytes[shard] = end;
    }
    p->shards = shard + 1;
out:
    return rc;
}

enum { SHARD_NAME = 64 };

static const char *shard_name(char buf[SHARD_NAME], const struct packer *p, int64_t shard)
{
    if (p->shards == 1)
        snprintf(buf, SHARD_NAME, "model.safetensors");
    else
        snprintf(buf, SHARD_NAME, "model-%05" PRId64 "-of-%05" PRId64 ".safetensors", shard + 1, p->shards);
    return buf;
}

/* Length and JSON text, padded with spaces so that data begin at a multiple of 8. */
static int shard_header(struct bytes *b, const struct packer *p, int64_t shard)
{
    json_t *head = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    char *text = NULL;
    int rc = 0;

    for (int64_t i = 0; i < p->plan.n; i++) {
        const struct plan_entry *e = &p->plan.entry[i];
        if (e->shard != shard)
            continue;
        json_t *shape = e->vector ? json_pack("[I]", (json_int_t)e->cols)
                                  : json_pack("[I, I]", (json_int_t)e->rows, (json_int_t)e->cols);
        json_object_set_new(head, e->hf,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", p->o->dtype == SQ_BF16 ? "BF16" : "F32", "shape",
                                      shape, "data_offsets", (json_int_t)e->offset,
                                      (json_int_t)(e->offset + entry_bytes(p, e))));
    }
    text = json_dumps(head, JSON_COMPACT);
    if (!text) {
        rc = sq_fail(SQ_E_NOMEM, "no memory for a header");
        goto out;
    }
    const size_t n = strlen(text), padded = (n + 7) / 8 * 8;
    bytes_u64(b, padded);
    bytes_add(b, text, n);
    bytes_add(b, "        ", padded - n);
    rc = b->rc;
out:
    free(text);
    json_decref(head);
    return rc;
}

/* Offsets count from the file's start from here on. */
static int make_shard(struct packer *p, int64_t shard)
{
    struct bytes head = {0};
    char name[SHARD_NAME];
    int rc;

    SQ_TRY(shard_header(&head, p, shard));
    for (int64_t i = 0; i < p->plan.n; i++)
        if (p->plan.entry[i].shard == shard)
            p->plan.entry[i].offset += (int64_t)head.n;
    p->rep->file_bytes += p->shard_bytes[shard];
    if (p->o->dry_run)
        p->rep->file_bytes += (int64_t)head.n;
    else
        SQ_TRY(pack_write_file(p, shard_name(name, p, shard), head.p, head.n));
out:
    bytes_release(&head);
    return rc;
}

static int begin(struct packer *p)
{
    int rc = 0;
    if (p->o->dtype != SQ_F32 && p->o->dtype != SQ_BF16)
        return sq_fail(SQ_E_ARG, "dtype '%s' is neither f32 nor bf16", sq_dtype_name(p->o->dtype));
    if (!p->o->dry_run)
        SQ_TRY(pack_make_directory(p));
    SQ_TRY(assign_shards(p));
    for (int64_t s = 0; s < p->shards; s++)
        SQ_TRY(make_shard(p, s));
    if (p->o->dtype == SQ_BF16)
        pack_note(p->rep, "bf16 rounds the dequantized weights; f32 keeps them exactly");
out:
    return rc;
}

static int place(struct packer *p, struct plan_entry *e)
{
    (void)p;
    (void)e;
    return 0;
}

static int file(int *fd, struct packer *p, const struct plan_entry *e)
{
    char path[SQ_TEMP_PATH + 256], name[SHARD_NAME];
    int rc = 0;

    if (p->fd < 0 || p->shard != e->shard) {
        SQ_TRY(pack_close(p));
        snprintf(path, sizeof path, "%s/%s", p->temp.path, shard_name(name, p, e->shard));
        p->fd = sq_fault(SQ_FAULT_OPEN) ? -1 : open(path, O_WRONLY | O_CLOEXEC);
        p->shard = e->shard;
        if (p->fd < 0)
            rc = sq_fail(SQ_E_IO, "cannot write '%s': %s", path, strerror(errno));
    }
    *fd = p->fd;
out:
    return rc;
}

static int write_json(struct packer *p, const char *name, const json_t *obj)
{
    char *text = obj ? json_dumps(obj, INDENT) : NULL;
    int rc;
    if (!text)
        return sq_fail(SQ_E_NOMEM, "no memory for '%s'", name);
    rc = pack_write_file(p, name, text, strlen(text));
    free(text);
    return rc;
}

static int write_index(struct packer *p)
{
    json_t *map = json_object(), *index = NULL;
    char name[SHARD_NAME];
    json_int_t total = 0;
    int rc;

    for (int64_t i = 0; i < p->plan.n; i++) {
        const struct plan_entry *e = &p->plan.entry[i];
        json_object_set_new(map, e->hf, json_string(shard_name(name, p, e->shard)));
        total += entry_bytes(p, e);
    }
    index = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", total, "weight_map", map);
    rc = write_json(p, "model.safetensors.index.json", index);
    json_decref(index);
    return rc;
}

/* The original config with what is different now: the dtype, and a head that earlier stages may have untied. */
static int write_config(struct packer *p)
{
    const char *dtype = p->o->dtype == SQ_BF16 ? "bfloat16" : "float32";
    json_t *config = json_deep_copy(sq_source_original(p->in));
    int rc;

    json_object_del(config, "quantization_config");
    json_object_set_new(config, "tie_word_embeddings", json_boolean(p->cfg->tied));
    if (json_object_get(config, "dtype"))
        json_object_set_new(config, "dtype", json_string(dtype));
    if (json_object_get(config, "torch_dtype") || !json_object_get(config, "dtype"))
        json_object_set_new(config, "torch_dtype", json_string(dtype));
    rc = write_json(p, "config.json", config);
    json_decref(config);
    return rc;
}

static int write_sides(struct packer *p)
{
    bool tokenizer = false, from_gguf = false;
    for (int64_t i = 0; i < sq_source_files(p->in); i++) {
        const struct sq_side *f = sq_source_file(p->in, i);
        tokenizer |= strcmp(f->name, "tokenizer.json") == 0;
        from_gguf |= strcmp(f->name, "tokenizer.gguf.json") == 0;
        if (strchr(f->name, '/') || f->name[0] == '.' || strcmp(f->name, "config.json") == 0 ||
            strstr(f->name, ".safetensors"))
            return sq_fail(SQ_E_FORMAT, "side file '%s' may not be written", f->name);
        const int rc = p->o->dry_run ? 0 : pack_write_file(p, f->name, f->data, f->size);
        if (rc < 0)
            return rc;
    }
    if (!tokenizer)
        pack_note(p->rep, "no tokenizer.json in the stream%s: the directory takes ids only",
                  from_gguf ? " (its source was gguf; tokenizer.gguf.json holds the keys)" : "");
    return 0;
}

static int finish(struct packer *p)
{
    int rc;
    SQ_TRY(pack_close(p));
    SQ_TRY(write_sides(p));
    if (p->o->dry_run)
        goto out;
    if (p->shards > 1)
        SQ_TRY(write_index(p));
    SQ_TRY(write_config(p));
out:
    return rc;
}

const struct pack_format pack_hf = {.begin = begin, .place = place, .file = file, .finish = finish};
