/* sq/tensor.h - dtypes and named arrays in memory */
#ifndef SQ_TENSOR_H
#define SQ_TENSOR_H

#include "sq/base.h"

SQ_BEGIN_DECLS

enum sq_dtype { SQ_F32, SQ_F16, SQ_BF16, SQ_F64, SQ_U8, SQ_I8, SQ_I32, SQ_I64, SQ_DTYPES };

size_t sq_dtype_size(enum sq_dtype t);
const char *sq_dtype_name(enum sq_dtype t);                              /* "f32", "bf16", ... */
int sq_dtype_parse(enum sq_dtype *out, const char *name) SQ_MUSTUSE;     /* SQ_E_UNSUP names it */

enum { SQ_MAX_DIMS = 4, SQ_NAME_MAX = 192 };

/* A row-major array. Views (owned == NULL) borrow their data from a mapping or another tensor and
 * must not outlive it; sq_tensor_release() frees only what is owned. */
struct sq_tensor {
    char name[SQ_NAME_MAX];
    enum sq_dtype dtype;
    int ndim;
    int64_t dim[SQ_MAX_DIMS];
    const void *data;
    void *owned; /* == data, or NULL for a view */
};

#define SQ_TENSOR_INIT {.name = "", .dtype = SQ_F32, .ndim = 0, .data = NULL, .owned = NULL}

int64_t sq_tensor_count(const struct sq_tensor *t); /* number of elements */
size_t sq_tensor_bytes(const struct sq_tensor *t);
/* Rows and columns of a 1- or 2-d tensor; a vector is one row. */
int64_t sq_tensor_rows(const struct sq_tensor *t);
int64_t sq_tensor_cols(const struct sq_tensor *t);
/* Set name, dtype and shape and allocate owned, zeroed data. Frees what t owned before. A count or
 * size that overflows, a negative dimension, ndim > SQ_MAX_DIMS or an over-long name: SQ_E_FORMAT. */
int sq_tensor_new(struct sq_tensor *t, const char *name, enum sq_dtype dtype, int ndim,
                  const int64_t *dim) SQ_MUSTUSE;
/* The same checks without data: a view is completed by setting t->data. */
int sq_tensor_shape(struct sq_tensor *t, const char *name, enum sq_dtype dtype, int ndim,
                    const int64_t *dim) SQ_MUSTUSE;
void sq_tensor_release(struct sq_tensor *t);
/* dst takes over src; src becomes empty. */
void sq_tensor_move(struct sq_tensor *dst, struct sq_tensor *src);
/* An owned copy of src. */
int sq_tensor_copy(struct sq_tensor *dst, const struct sq_tensor *src) SQ_MUSTUSE;
/* Element i of any dtype. */
double sq_tensor_at(const struct sq_tensor *t, int64_t i);
/* out[count] = t as float32; t must be f32, f16, bf16 or f64. A NaN or Inf is SQ_E_VALUE and names the element. */
int sq_tensor_to_f32(float *out, const struct sq_tensor *t) SQ_MUSTUSE;

/* SQ_E_VALUE, naming tensor and element, when a float tensor holds a NaN or Inf; other dtypes pass. */
int sq_tensor_check_finite(const struct sq_tensor *t) SQ_MUSTUSE;

/* Exact conversions, round to nearest even where bits are lost. */
float sq_f16_to_f32(uint16_t h);
uint16_t sq_f32_to_f16(float f);
float sq_bf16_to_f32(uint16_t h);
uint16_t sq_f32_to_bf16(float f);
void sq_bf16_widen(float *out, const uint16_t *x, int64_t n);
void sq_bf16_narrow(uint16_t *out, const float *x, int64_t n); /* a NaN stays one */

/* Numbers in memory, f32 or bf16, for what may be kept in fewer bytes than it is computed in. Borrowed. */
struct sq_floats {
    enum sq_dtype type; /* SQ_F32 or SQ_BF16 */
    void *x;
};

static inline struct sq_floats sq_f32(float *x)
{
    const struct sq_floats a = {SQ_F32, x};
    return a;
}

/* Where they lie, of what is never asked for bf16. */
static inline float *sq_f32_of(struct sq_floats a)
{
    SQ_ASSERT(a.type == SQ_F32);
    return (float *)a.x;
}

/* from element `first` on */
struct sq_floats sq_floats_from(struct sq_floats a, int64_t first);
/* out[n] = the first n, and back, rounded to their type; large ones by all threads */
void sq_floats_get(float *out, struct sq_floats a, int64_t n);
void sq_floats_put(struct sq_floats a, const float *x, int64_t n);
void sq_floats_round(float *x, enum sq_dtype type, int64_t n); /* as if put and got, in place */

SQ_END_DECLS
#endif
