/* Inside of module pack: one run of the packer, and what a format adds to it. */
#ifndef SQ_PACK_PACKER_H
#define SQ_PACK_PACKER_H

#include "bytes.h"
#include "plan.h"
#include "sq/pack.h"
#include "sq/temp.h"

struct packer;

/* A format says where things go; the driver encodes, compares and writes. */
struct pack_format {
    /* Config and side files are known, no tensor has come: make the temporary file or directory. */
    int (*begin)(struct packer *p);
    /* e->type and e->bytes are known: set e->offset (and e->shard). */
    int (*place)(struct packer *p, struct plan_entry *e);
    /* The descriptor that holds e. */
    int (*file)(int *fd, struct packer *p, const struct plan_entry *e);
    /* All tensors are written: header, side files; everything on disk, under the temporary name. */
    int (*finish)(struct packer *p);
};

extern const struct pack_format pack_gguf, pack_hf;

enum { PACK_PATH = 4096 };

struct packer {
    const struct sq_pack_opts *o;
    struct sq_source *in;
    struct sq_app *app;
    const struct sq_config *cfg;
    const struct pack_format *format;
    struct sq_pack_report *rep;
    struct plan plan;
    struct sq_layer layer, top; /* the layer at hand; tensors outside of layers that wait for their companions */
    int64_t group;              /* of the layer's linears, -1: to be seen from the scales */
    int64_t done;               /* entries */
    int wbits;                  /* of the layer's linears */
    bool said_acts;             /* the note about activation bits is there */
    /* linears that a type with blocks of 256 columns would hold in fewer bits, but for their columns [0] or groups [1] */
    int64_t narrow[2];
    const struct plan_entry *first_narrow[2];
    struct sq_temp temp;        /* file or directory */
    int fd;                     /* open file, -1: none */
    int64_t shard, shards;      /* hf: which file fd is; how many */
    struct bytes keys;          /* gguf */
    int64_t header, end;        /* gguf: size of the header; end of the data so far */
    struct plan_entry **order;  /* gguf: entries as their data lie in the file */
    int64_t norder;
    int64_t *shard_bytes;       /* hf: data bytes of each file */
};

void pack_note(struct sq_pack_report *rep, const char *fmt, ...) SQ_PRINTF(2, 3);
/* Make p->temp, and of a file p->fd, which reads and writes it. */
int pack_make_file(struct packer *p) SQ_MUSTUSE;
int pack_make_directory(struct packer *p) SQ_MUSTUSE;
/* All n bytes at an offset. SQ_E_IO names the output. */
int pack_write(struct packer *p, int fd, const void *data, size_t n, int64_t offset) SQ_MUSTUSE;
/* A whole small file in the temporary directory. */
int pack_write_file(struct packer *p, const char *name, const void *data, size_t n) SQ_MUSTUSE;
/* fsync and close p->fd, if it is open. */
int pack_close(struct packer *p) SQ_MUSTUSE;
/* Close p->fd, if it is open, and remove the temporary file or directory, if there is one. */
void pack_remove(struct packer *p);
/* Open the temporary output as a model and compare every tensor's values with what was sent. */
int pack_verify(struct packer *p) SQ_MUSTUSE;
/* Digest of values, in which -0 is 0: a code on its zero point times a negative scale is no difference. */
struct sq_hash;
void pack_digest(struct sq_hash *h, float *w, int64_t n);

#endif
