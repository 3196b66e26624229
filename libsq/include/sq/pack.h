/* sq/pack.h - merged streams into files that others read: GGUF, Hugging Face directories, our own stream
 *
 * A merged linear is codes with scales and zero points: w = scale (code - zero). Every block type below either
 * holds a given linear exactly - the reader's float32 dequantisation gives the same numbers as ours - or it is
 * refused, tensor and reason named, unless the caller asks for the nearest. */
#ifndef SQ_PACK_H
#define SQ_PACK_H

#include <stdio.h>

#include "sq/app.h"
#include "sq/scheme.h"
#include "sq/source.h"
#include "sq/tensor.h"

SQ_BEGIN_DECLS

/* ---- block types of GGUF; the values are its own ---- */

enum sq_pack_type {
    SQ_PACK_AUTO = -1,
    SQ_PACK_F32 = 0,
    SQ_PACK_F16 = 1,
    SQ_PACK_Q4_0 = 2,
    SQ_PACK_Q4_1 = 3,
    SQ_PACK_Q5_0 = 6,
    SQ_PACK_Q8_0 = 8,
    SQ_PACK_Q2_K = 10,
    SQ_PACK_Q3_K = 11,
    SQ_PACK_Q4_K = 12,
    SQ_PACK_Q5_K = 13,
    SQ_PACK_Q6_K = 14,
    SQ_PACK_BF16 = 30,
    SQ_PACK_TYPES
};

struct sq_pack_info {
    const char *name; /* "q4_0"; NULL for a number that is no type of ours */
    int64_t block;    /* values a block */
    int64_t bytes;    /* bytes a block */
    uint32_t ftype;   /* general.file_type of a file whose linears are mostly this */
    const char *why;  /* what makes it exact, for the report */
};

const struct sq_pack_info *sq_pack_info(enum sq_pack_type t); /* NULL for no type */
int sq_pack_type_parse(enum sq_pack_type *out, const char *name) SQ_MUSTUSE;
/* Bytes of a row of cols values; cols must be whole blocks. */
int64_t sq_pack_row_bytes(enum sq_pack_type t, int64_t cols);

/* A linear on its grid, borrowed. codes u8 [R,K], scales f32 and zeros u8 [R,G], G = 1 for group 0. */
struct sq_grid {
    const char *name; /* for errors */
    const uint8_t *codes;
    const float *scales;
    const uint8_t *zeros;
    int64_t rows, cols, group;
};

/* What may be lost: nothing; scales rounded to float16; everything (weights rounded anew). */
enum sq_pack_loss { SQ_PACK_EXACT, SQ_PACK_SCALES, SQ_PACK_ROUNDED };

/* Row `row` of g as blocks of type t, sq_pack_row_bytes(t, cols) bytes to out. false when the type cannot hold it at
 * that loss; out is then unspecified. No allocation, thread-safe. */
bool sq_pack_row(void *out, const struct sq_grid *g, int64_t row, enum sq_pack_type t, enum sq_pack_loss loss);
/* Whether t holds every row of g at that loss. */
bool sq_pack_fits(const struct sq_grid *g, enum sq_pack_type t, enum sq_pack_loss loss);
/* The type for g: `want`, or for SQ_PACK_AUTO the smallest exact one; with lossy, where none is exact, the nearest.
 * *loss says what writing it loses. SQ_E_UNSUP names tensor and reason. */
int sq_pack_choose(enum sq_pack_type *t, enum sq_pack_loss *loss, const struct sq_grid *g, enum sq_pack_type want,
                   bool lossy) SQ_MUSTUSE;

/* ---- whole models ---- */

enum sq_pack_format { SQ_PACK_GGUF, SQ_PACK_HF };

struct sq_pack_opts {
    const char *out; /* a file, for SQ_PACK_HF a directory that does not exist or is empty */
    enum sq_pack_format format;
    bool dry_run; /* everything but writing; whether it could be written is looked at */
    /* gguf */
    const char *name;       /* general.name; NULL: from config.json */
    enum sq_pack_type type; /* of the linears; SQ_PACK_AUTO: the smallest exact one of each */
    bool lossy;
    bool no_tokenizer; /* a file that takes ids only */
    /* hf */
    enum sq_dtype dtype; /* SQ_F32 or SQ_BF16, which rounds */
    int64_t shard;       /* largest bytes of one file, > 0 */
};

/* What was written, of linears and of everything else (embedding, norms, biases, head). */
struct sq_pack_tally {
    int64_t tensors, values, bytes, lossy;
};

enum { SQ_PACK_NOTES = 8, SQ_PACK_NOTE = 256 };

struct sq_pack_report {
    struct sq_pack_tally linear[SQ_PACK_TYPES], other[SQ_PACK_TYPES];
    int64_t values, file_bytes;
    char scheme[SQ_SCHEME_NAME]; /* of the first merged layer */
    bool mixed;                  /* other layers have others */
    double max_diff;             /* largest difference between a value of the stream and of the file */
    char max_name[96];
    /* read back; all 0 after a dry run */
    int64_t checked, nan, inf, zero_blocks; /* tensors; values; blocks of 32 columns of linears without a value but 0 */
    char note[SQ_PACK_NOTES][SQ_PACK_NOTE];
    int notes;
};

/* Write the merged model of in (just opened) to o->out: under a temporary name, read back and compared value by
 * value, then renamed. Holds one layer. app is for progress and may be NULL. SQ_E_ARG: a stream that is not merged;
 * SQ_E_UNSUP: what the format cannot hold; SQ_E_CHECK: the file read back differs (it is removed). */
int sq_pack_model(struct sq_pack_report *rep, struct sq_source *in, const struct sq_pack_opts *o,
                  struct sq_app *app) SQ_MUSTUSE;
/* Can a file, or a directory, of so many bytes be written under that name? SQ_E_IO or SQ_E_ARG says why not. */
int sq_pack_room(const char *out, bool directory, int64_t bytes) SQ_MUSTUSE;
/* The report for people, a few lines. */
void sq_pack_print(FILE *f, const struct sq_pack_report *rep);
/* The same for machines; *out is a new reference. */
int sq_pack_json(json_t **out, const struct sq_pack_report *rep) SQ_MUSTUSE;

SQ_END_DECLS
#endif
