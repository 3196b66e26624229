/* sq/gguf.h - reading one GGUF file (version 2 or 3, little-endian): keys with values, tensors in ggml's
 * types */
#ifndef SQ_GGUF_H
#define SQ_GGUF_H

#include <jansson.h>

#include "sq/tensor.h"

SQ_BEGIN_DECLS

struct sq_gguf;

/* ne[0] runs fastest: a matrix [R,K] has ne = {K, R}. data is the file's and may be misaligned for its
 * type. */
struct sq_gguf_tensor {
    char name[SQ_NAME_MAX];
    int type;
    int ndim;
    int64_t ne[SQ_MAX_DIMS];
    const uint8_t *data;
    size_t size;
};

/* Map the file and check it completely: every length before it is used, keys once each, tensors of known
 * types, aligned, inside the file, in one another's way nowhere, each name once. One file of several (a
 * split model) is SQ_E_UNSUP. SQ_E_IO, SQ_E_FORMAT; file and key or tensor are named. */
int sq_gguf_open(struct sq_gguf **out, const char *path) SQ_MUSTUSE;
/* The same from memory that the caller keeps until the close; what names it in errors. */
int sq_gguf_parse(struct sq_gguf **out, const void *bytes, size_t n, const char *what) SQ_MUSTUSE;
void sq_gguf_close(struct sq_gguf **g);

int64_t sq_gguf_tensors(const struct sq_gguf *g);
const struct sq_gguf_tensor *sq_gguf_tensor(const struct sq_gguf *g,
                                            int64_t i);          /* in the order of names */
int64_t sq_gguf_find(const struct sq_gguf *g, const char *name); /* its index, or -1 */
void sq_gguf_drop(const struct sq_gguf *g, int64_t i);           /* its pages may leave memory */

/* Values of keys; a missing key or another type is SQ_E_FORMAT and named. */
bool sq_gguf_has(const struct sq_gguf *g, const char *key);
int sq_gguf_int(int64_t *out, const struct sq_gguf *g, const char *key, int64_t min,
                int64_t max) SQ_MUSTUSE;
int sq_gguf_real(double *out, const struct sq_gguf *g, const char *key) SQ_MUSTUSE; /* finite */
int sq_gguf_bool(bool *out, const struct sq_gguf *g, const char *key) SQ_MUSTUSE;
/* Not terminated; the file's. */
int sq_gguf_str(const char **out, size_t *n, const struct sq_gguf *g, const char *key) SQ_MUSTUSE;
bool sq_gguf_is(const struct sq_gguf *g, const char *key, const char *text); /* a string, and that one */
/* All keys that begin with prefix, as one JSON object; arrays as JSON arrays. *out is a new reference.
 */
int sq_gguf_json(json_t **out, const struct sq_gguf *g, const char *prefix) SQ_MUSTUSE;

/* ---- tensor types ---- */

/* "Q4_K"; NULL for a number that no type has. */
const char *sq_gguf_type_name(int type);
/* Elements of a block and its bytes; SQ_E_UNSUP, named, for a type that sq cannot dequantize. */
int sq_gguf_type_size(int64_t *elements, size_t *bytes, int type) SQ_MUSTUSE;
/* out[n] = the values of n / elements blocks, in float32 as ggml computes them; n is a multiple of the
 * block's elements and the type one that sq_gguf_type_size takes. Not checked for NaN and Inf. */
void sq_gguf_dequant(float *out, int type, const void *blocks, int64_t n);

SQ_END_DECLS
#endif
