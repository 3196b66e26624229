/* What a source needs of a file format that allows access by name, and what is made of it: the list of
 * all tensors of the model in order. Names are those of Hugging Face checkpoints. */
#ifndef SQ_CHECKPOINT_H
#define SQ_CHECKPOINT_H

#include "sq/source.h"

struct sq_format {
    int64_t (*count)(const void *impl);
    /* tensor id: name, dtype and shape as sq_format.get would deliver it; no data */
    const struct sq_tensor *(*info)(const void *impl, int64_t id);
    int64_t (*find)(const void *impl, const char *name); /* -1: none */
    int (*get)(struct sq_tensor *out, void *impl, int64_t id);
    void (*drop)(void *impl, int64_t id);
    void (*close)(void *impl);
};

struct sq_item {
    struct sq_tensor t; /* as it travels, without data */
    int64_t layer;      /* -1: none */
    int64_t id;         /* for sq_format.get */
};

struct sq_map;

struct sq_source {
    char *spec;
    struct sq_config cfg;
    json_t *original, *manifest;
    int64_t bytes; /* of all tensors */
    struct sq_side *file;
    struct sq_map *map; /* of file[i], where it is mapped */
    void **owned;       /* of file[i], where it is not */
    int64_t nfile;
    int64_t layer; /* the next one */
    /* checkpoints */
    const struct sq_format *format;
    void *impl;
    struct sq_item *item;
    int64_t nitem, at, dropped; /* items before at were given out, those before dropped left memory */
    /* streams */
    struct sq_stream *in;
    struct sq_record rec;
    bool ahead; /* rec is the tensor or layer that comes next, its payload not yet read */
    bool ended;
};

enum { SQ_SIDE_FILES = 16 };

/* Add a side file: data is the map's, or owned (taken over, also on failure), or NULL for empty. */
int sq_source_add_map(struct sq_source *s, const char *name, struct sq_map *map);
int sq_source_add_owned(struct sq_source *s, const char *name, void *owned, size_t size);

int sq_source_open_dir(struct sq_source *s);
int sq_source_open_gguf(struct sq_source *s);
int sq_source_open_stream(struct sq_source *s);
int sq_source_stream_top(struct sq_source *s, struct sq_tensor *t);
int sq_source_stream_layer(struct sq_source *s, struct sq_layer *l);

/* With format, impl and cfg set: items, manifest; every tensor is there with its shape and none is left
 * over. */
int sq_source_plan(struct sq_source *s);

#endif
