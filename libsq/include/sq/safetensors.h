/* sq/safetensors.h - reading one safetensors file: a length, a JSON header, the bytes of all tensors */
#ifndef SQ_SAFETENSORS_H
#define SQ_SAFETENSORS_H

#include "sq/tensor.h"

SQ_BEGIN_DECLS

struct sq_safetensors;

/* Map the file and check its header completely: its length (at most 100 MB), names, dtypes, that shape x
 * dtype is the number of bytes, that the tensors follow one another without hole or overlap to the end
 * of the file. SQ_E_IO, SQ_E_FORMAT, or SQ_E_UNSUP for a dtype that sq has not; file and tensor are
 * named. */
int sq_safetensors_open(struct sq_safetensors **out, const char *path) SQ_MUSTUSE;
/* The same from memory that the caller keeps until the close; what names it in errors. */
int sq_safetensors_parse(struct sq_safetensors **out, const void *bytes, size_t n,
                         const char *what) SQ_MUSTUSE;
void sq_safetensors_close(struct sq_safetensors **s);

int64_t sq_safetensors_count(const struct sq_safetensors *s);
/* Tensor i, in the order of names: dtype, shape and bytes; its data may be misaligned, so only to look
 * at. */
const struct sq_tensor *sq_safetensors_at(const struct sq_safetensors *s, int64_t i);
/* Its index, or -1. */
int64_t sq_safetensors_find(const struct sq_safetensors *s, const char *name);
/* Tensor i as a view into the file; an owned copy where the file does not align it for its dtype. */
int sq_safetensors_get(struct sq_tensor *out, const struct sq_safetensors *s, int64_t i) SQ_MUSTUSE;
/* The tensor's pages may leave memory; reading them again is allowed. */
void sq_safetensors_drop(const struct sq_safetensors *s, int64_t i);

SQ_END_DECLS
#endif
