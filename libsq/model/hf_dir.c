/* A Hugging Face directory: config.json, model.safetensors or the shards that
 * model.safetensors.index.json lists, and files that travel along. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "map.h"
#include "checkpoint.h"
#include "sq/json.h"
#include "sq/safetensors.h"

enum { SHARDS_MAX = 4096 };

struct entry {
    struct sq_tensor t; /* without data */
    int64_t shard, index;
};

struct hf {
    struct sq_safetensors **shard;
    char **shard_name;
    int64_t nshard;
    struct entry *entry; /* by name */
    int64_t n;
};

static int64_t hf_count(const void *impl)
{
    return ((const struct hf *)impl)->n;
}

static const struct sq_tensor *hf_info(const void *impl, int64_t id)
{
    return &((const struct hf *)impl)->entry[id].t;
}

static int is_named(const void *name, const void *e)
{
    return strcmp(name, ((const struct entry *)e)->t.name);
}

static int64_t hf_find(const void *impl, const char *name)
{
    const struct hf *h = impl;
    const struct entry *e =
        h->n ? bsearch(name, h->entry, (size_t)h->n, sizeof *h->entry, is_named) : NULL;
    return e ? e - h->entry : -1;
}

static int hf_get(struct sq_tensor *out, void *impl, int64_t id)
{
    const struct hf *h = impl;
    return sq_safetensors_get(out, h->shard[h->entry[id].shard], h->entry[id].index);
}

static void hf_drop(void *impl, int64_t id)
{
    const struct hf *h = impl;
    sq_safetensors_drop(h->shard[h->entry[id].shard], h->entry[id].index);
}

static void hf_close(void *impl)
{
    struct hf *h = impl;
    for (int64_t i = 0; i < h->nshard; i++) {
        sq_safetensors_close(&h->shard[i]);
        sq_free(h->shard_name[i]);
    }
    sq_free(h->shard_name);
    sq_free(h->shard);
    sq_free(h->entry);
    sq_free(h);
}

static const struct sq_format hf_format = {hf_count, hf_info, hf_find, hf_get, hf_drop, hf_close};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->t.name, ((const struct entry *)b)->t.name);
}

static int path_in(char *buf, const char *dir, const char *name)
{
    const int n = snprintf(buf, PATH_MAX, "%s/%s", dir, name);
    return n < PATH_MAX ? 0 : sq_fail(SQ_E_ARG, "the path '%.60s...' is too long", dir);
}

/* The shard of that name, opened when it is new. */
static int open_shard(int64_t *out, struct hf *h, const char *dir, const char *name)
{
    char path[PATH_MAX];
    int rc = 0;

    for (int64_t i = h->nshard - 1; i >= 0; i--) /* the index is grouped by shard, mostly */
        if (strcmp(h->shard_name[i], name) == 0) {
            *out = i;
            return 0;
        }
    if (!*name || strchr(name, '/') || strcmp(name, "..") == 0)
        return sq_fail(SQ_E_FORMAT, "'%.80s' is no name of a shard", name);
    if (h->nshard == SHARDS_MAX)
        return sq_fail(SQ_E_FORMAT, "more than %d shards", SHARDS_MAX);
    SQ_TRY(path_in(path, dir, name));
    SQ_TRY(sq_safetensors_open(&h->shard[h->nshard], path));
    *out = h->nshard++;
    SQ_TRY(sq_strdup(&h->shard_name[*out], name));
out:
    return rc;
}

static int add_entry(struct hf *h, int64_t shard, int64_t index)
{
    const struct sq_tensor *t = sq_safetensors_at(h->shard[shard], index);
    struct entry *e = &h->entry[h->n++];
    e->shard = shard;
    e->index = index;
    return sq_tensor_shape(&e->t, t->name, t->dtype, t->ndim, t->dim);
}

static int open_single(struct hf *h, const char *dir)
{
    int64_t shard = 0;
    int rc = 0;
    SQ_TRY(open_shard(&shard, h, dir, "model.safetensors"));
    SQ_TRY(sq_alloc(&h->entry, sq_safetensors_count(h->shard[shard])));
    for (int64_t i = 0; i < sq_safetensors_count(h->shard[shard]); i++)
        SQ_TRY(add_entry(h, shard, i));
out:
    return rc;
}

static int open_index(struct hf *h, const char *dir, const char *index_path)
{
    json_t *index = NULL, *map = NULL, *v;
    const char *name;
    int rc = 0;

    SQ_TRY(sq_json_load(&index, index_path));
    rc = sq_json_object(&map, index, "weight_map");
    if (rc == 0)
        rc = sq_alloc(&h->entry, (int64_t)json_object_size(map));
    json_object_foreach(map, name, v) {
        int64_t shard = 0;
        if (rc == 0)
            rc = json_is_string(v) ? open_shard(&shard, h, dir, json_string_value(v))
                                   : sq_fail(SQ_E_FORMAT, "tensor '%.100s' names no shard", name);
        if (rc < 0)
            break;
        const int64_t i = sq_safetensors_find(h->shard[shard], name);
        rc = i < 0 ? sq_fail(SQ_E_FORMAT, "tensor '%.100s' is not in '%s'", name, h->shard_name[shard])
                   : add_entry(h, shard, i);
    }
    if (rc < 0)
        sq_fail_in(rc, "'%s'", index_path);
    if (rc == 0 && h->n)
        qsort(h->entry, (size_t)h->n, sizeof *h->entry, by_name);
out:
    json_decref(index);
    return rc;
}

static int refuse_without_weights(const char *dir)
{
    const char *why = "neither 'model.safetensors' nor 'model.safetensors.index.json' is there";
    char found[300] = "";
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        const char *dot = strrchr(e->d_name, '.');
        if (dot && (!strcmp(dot, ".bin") || !strcmp(dot, ".pt") || !strcmp(dot, ".pth")))
            snprintf(found, sizeof found, "%s", e->d_name);
    }
    if (d)
        closedir(d);
    if (*found)
        return sq_fail(
            SQ_E_UNSUP,
            "'%s': the weights ('%s') are pickle files, which can run code when read: convert them "
            "to safetensors first (transformers: save_pretrained(DIR, safe_serialization=True))",
            dir, found);
    return sq_fail(SQ_E_IO, "'%s': %s", dir, why);
}

static int open_weights(struct sq_source *s)
{
    char path[PATH_MAX];
    struct stat st;
    struct hf *h = NULL;
    int rc = 0;

    SQ_TRY(sq_alloc(&h, 1));
    s->impl = h;
    s->format = &hf_format;
    SQ_TRY(sq_alloc(&h->shard, SHARDS_MAX));
    SQ_TRY(sq_alloc(&h->shard_name, SHARDS_MAX));
    SQ_TRY(path_in(path, s->spec, "model.safetensors"));
    if (stat(path, &st) == 0)
        return open_single(h, s->spec);
    SQ_TRY(path_in(path, s->spec, "model.safetensors.index.json"));
    if (stat(path, &st) == 0)
        return open_index(h, s->spec, path);
    rc = refuse_without_weights(s->spec);
out:
    return rc;
}

static int open_sides(struct sq_source *s)
{
    static const char *const names[] = {
        "tokenizer.json",     "tokenizer_config.json",  "special_tokens_map.json",
        "added_tokens.json",  "generation_config.json", "chat_template.jinja",
        "chat_template.json", "tokenizer.model",        "vocab.json",
        "merges.txt",
    };
    enum { SIDE_MAX = 256 << 20 };
    char path[PATH_MAX];
    int rc = 0;

    for (int i = 0; i < SQ_COUNT(names); i++) {
        struct sq_map map;
        struct stat st;
        SQ_TRY(path_in(path, s->spec, names[i]));
        if (lstat(path, &st) < 0 && errno == ENOENT)
            continue;
        if (stat(path, &st) < 0) /* a link that leads nowhere was meant to be a file */
            return sq_fail(SQ_E_IO, "cannot read '%s': %s", path, strerror(errno));
        if (st.st_size == 0)
            continue;
        if (st.st_size > SIDE_MAX)
            return sq_fail(SQ_E_FORMAT, "'%s' has %lld bytes, more than %d", path, (long long)st.st_size,
                           SIDE_MAX);
        SQ_TRY(sq_map_open(&map, path));
        SQ_TRY(sq_source_add_map(s, names[i], &map));
    }
out:
    return rc;
}

int sq_source_open_dir(struct sq_source *s)
{
    char path[PATH_MAX];
    int rc = 0;

    SQ_TRY(path_in(path, s->spec, "config.json"));
    SQ_TRY(sq_json_load(&s->original, path));
    rc = sq_config_read(&s->cfg, s->original);
    if (rc < 0)
        return sq_fail_in(rc, "'%s'", path);
    SQ_TRY(open_sides(s));
    SQ_TRY(open_weights(s));
    rc = sq_source_plan(s);
    if (rc < 0)
        sq_fail_in(rc, "'%s'", s->spec);
out:
    return rc;
}
