#include "sq/source.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "map.h"
#include "checkpoint.h"
#include "sq/fault.h"

static const char pickle_text[] =
    "is a pickle file, which can run code when read: convert it to safetensors first "
    "(transformers: save_pretrained(DIR, safe_serialization=True))";

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static int open_file(struct sq_source *s)
{
    static const char *const pickles[] = {".bin", ".pt", ".pth", ".ckpt", ".pkl"};
    uint8_t magic[4] = {0};

    for (int i = 0; i < SQ_COUNT(pickles); i++)
        if (ends_with(s->spec, pickles[i]))
            return sq_fail(SQ_E_UNSUP, "'%s' %s", s->spec, pickle_text);
    if (ends_with(s->spec, ".safetensors"))
        return sq_fail(SQ_E_ARG, "'%s' is one file of a checkpoint: name its directory", s->spec);
    FILE *f = sq_fault(SQ_FAULT_OPEN) ? NULL : fopen(s->spec, "rb");
    if (!f)
        return sq_fail(SQ_E_IO, "cannot read '%s': %s", s->spec, strerror(errno));
    const size_t got = fread(magic, 1, sizeof magic, f);
    fclose(f);
    if (got == sizeof magic && memcmp(magic, "GGUF", 4) == 0)
        return sq_source_open_gguf(s);
    if (got == sizeof magic && (memcmp(magic, "PK\3\4", 4) == 0 || (magic[0] == 0x80 && magic[1] <= 5)))
        return sq_fail(SQ_E_UNSUP, "'%s' %s", s->spec, pickle_text);
    return sq_source_open_stream(s);
}

int sq_source_open(struct sq_source **out, const char *spec)
{
    struct sq_source *s = NULL;
    struct stat st;
    int rc = 0;

    *out = NULL;
    SQ_TRY(sq_alloc(&s, 1));
    s->rec = (struct sq_record)SQ_RECORD_INIT;
    SQ_TRY(sq_strdup(&s->spec, spec));
    SQ_TRY(sq_alloc(&s->file, SQ_SIDE_FILES));
    SQ_TRY(sq_alloc(&s->map, SQ_SIDE_FILES));
    SQ_TRY(sq_alloc(&s->owned, SQ_SIDE_FILES));
    if (!sq_stream_is_path(spec))
        SQ_TRY(sq_source_open_stream(s));
    else if (stat(spec, &st) < 0)
        SQ_TRY(sq_fail(SQ_E_IO, "cannot read '%s': %s", spec, strerror(errno)));
    else if (S_ISDIR(st.st_mode))
        SQ_TRY(sq_source_open_dir(s));
    else if (S_ISREG(st.st_mode))
        SQ_TRY(open_file(s));
    else
        SQ_TRY(sq_source_open_stream(s));
    *out = s;
    s = NULL;
out:
    sq_source_close(&s);
    return rc;
}

void sq_source_close(struct sq_source **source)
{
    struct sq_source *s = *source;
    if (!s)
        return;
    if (s->format && s->impl)
        s->format->close(s->impl);
    sq_free(s->item);
    sq_record_release(&s->rec);
    sq_stream_abort(&s->in, 0);
    for (int64_t i = 0; i < s->nfile; i++) {
        sq_map_close(&s->map[i]);
        sq_free(s->owned[i]);
    }
    sq_free(s->owned);
    sq_free(s->map);
    sq_free(s->file);
    json_decref(s->manifest);
    json_decref(s->original);
    sq_free(s->spec);
    sq_free(s);
    *source = NULL;
}

const struct sq_config *sq_source_config(const struct sq_source *s)
{
    return &s->cfg;
}

const json_t *sq_source_original(const struct sq_source *s)
{
    return s->original;
}

const json_t *sq_source_manifest(const struct sq_source *s)
{
    return s->manifest;
}

int64_t sq_source_bytes(const struct sq_source *s)
{
    return s->bytes;
}

/* ---- side files ---- */

static int add_side(struct sq_source *s, const char *name, const void *data, size_t size)
{
    struct sq_side *f = &s->file[s->nfile];
    if (s->nfile == SQ_SIDE_FILES)
        return sq_fail(SQ_E_FORMAT, "more than %d side files", SQ_SIDE_FILES);
    if (!*name || strlen(name) >= sizeof f->name || strchr(name, '/') || name[0] == '.')
        return sq_fail(SQ_E_FORMAT, "'%.80s' is no name for a side file", name);
    if (sq_source_find_file(s, name))
        return sq_fail(SQ_E_FORMAT, "side file '%s' is there twice", name);
    snprintf(f->name, sizeof f->name, "%s", name);
    f->data = data;
    f->size = size;
    s->nfile++;
    return 0;
}

int sq_source_add_map(struct sq_source *s, const char *name, struct sq_map *map)
{
    const int rc = add_side(s, name, map->data, map->size);
    if (rc < 0)
        sq_map_close(map);
    else
        s->map[s->nfile - 1] = *map;
    return rc;
}

int sq_source_add_owned(struct sq_source *s, const char *name, void *owned, size_t size)
{
    const int rc = add_side(s, name, owned, size);
    if (rc < 0)
        sq_free(owned);
    else
        s->owned[s->nfile - 1] = owned;
    return rc;
}

int64_t sq_source_files(const struct sq_source *s)
{
    return s->nfile;
}

const struct sq_side *sq_source_file(const struct sq_source *s, int64_t i)
{
    SQ_ASSERT(i >= 0 && i < s->nfile);
    return &s->file[i];
}

const struct sq_side *sq_source_find_file(const struct sq_source *s, const char *name)
{
    for (int64_t i = 0; i < s->nfile; i++)
        if (strcmp(s->file[i].name, name) == 0)
            return &s->file[i];
    return NULL;
}

int sq_source_put_head(struct sq_stream *out, const struct sq_source *s)
{
    json_t *config = NULL, *head = NULL;
    int rc = 0;

    SQ_TRY(sq_config_to_json(&config, &s->cfg));
    head = json_pack("{s:s, s:O, s:O, s:O}", "record", "model", "config", config, "original",
                     s->original, "manifest", s->manifest);
    rc =
        head ? sq_stream_put(out, head, NULL, 0) : sq_fail(SQ_E_NOMEM, "no memory for the model record");
    for (int64_t i = 0; i < s->nfile && rc == 0; i++) {
        const struct sq_side *f = &s->file[i];
        json_decref(head);
        head = json_pack("{s:s, s:s, s:I}", "record", "file", "name", f->name, "bytes",
                         (json_int_t)f->size);
        rc = head ? sq_stream_put(out, head, f->data, f->size)
                  : sq_fail(SQ_E_NOMEM, "no memory for a file record");
        sq_map_drop(&s->map[i], f->data, f->size);
    }
out:
    json_decref(head);
    json_decref(config);
    return rc;
}

/* ---- tensors ---- */

const char *sq_source_role(const char *name)
{
    return strcmp(name, SQ_EMBED_NAME) == 0        ? "embedding"
           : strcmp(name, SQ_FINAL_NORM_NAME) == 0 ? "norm"
           : strcmp(name, SQ_HEAD_NAME) == 0       ? "head"
                                                   : NULL;
}

bool sq_source_is_stream(const struct sq_source *s)
{
    return s->in != NULL;
}

/* Pages of what was given out before are done with: the caller has asked for the next thing. */
static void drop_read(struct sq_source *s)
{
    for (; s->dropped < s->at; s->dropped++)
        s->format->drop(s->impl, s->item[s->dropped].id);
}

/* The item's tensor under its name from byte skip on. */
static int get_item(struct sq_source *s, struct sq_tensor *t, size_t skip)
{
    const struct sq_item *it = &s->item[s->at];
    const int rc = s->format->get(t, s->impl, it->id);
    if (rc < 0)
        return rc;
    snprintf(t->name, sizeof t->name, "%s", it->t.name + skip);
    s->at++;
    return 1;
}

int sq_source_top(struct sq_source *s, struct sq_tensor *t)
{
    sq_tensor_release(t);
    if (s->in)
        return sq_source_stream_top(s, t);
    drop_read(s);
    if (s->at == s->nitem || s->item[s->at].layer >= 0)
        return 0;
    return get_item(s, t, 0);
}

int sq_source_layer(struct sq_source *s, struct sq_layer *l)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    char prefix[48];
    int rc = 0;

    sq_layer_release(l);
    if (s->in)
        return sq_source_stream_layer(s, l);
    drop_read(s);
    if (s->layer == s->cfg.layers)
        return 0;
    if (s->item[s->at].layer != s->layer)
        return sq_fail(SQ_E_ARG, "layer %" PRId64 " was asked for before the embedding", s->layer);
    const int len = snprintf(prefix, sizeof prefix, "model.layers.%" PRId64 ".", s->layer);
    l->index = s->layer;
    l->state = SQ_FLOAT;
    while (s->at < s->nitem && s->item[s->at].layer == s->layer) {
        SQ_TRY(get_item(s, &t, (size_t)len));
        SQ_TRY(sq_layer_add(l, &t));
    }
    s->layer++;
    rc = 1;
out:
    sq_tensor_release(&t);
    return rc;
}
