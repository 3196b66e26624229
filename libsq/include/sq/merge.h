/* sq/merge.h - what sq-merge does besides sq_layer_merge (sq/params.h): count what came out, round the tables
 * outside of the layers (embedding, head), and for readers: a table as floats, whatever form it has */
#ifndef SQ_MERGE_H
#define SQ_MERGE_H

#include "sq/params.h"

SQ_BEGIN_DECLS

/* Of merged tensors, added to what is there. */
struct sq_merge_counts {
    int64_t codes, groups;
    int64_t low, high;    /* codes at the ends of their range */
    int64_t zero_groups;  /* rows or groups whose values are all exactly 0 */
    int64_t small_scales; /* raised to the smallest normal f16 */
};

/* Count the codes of a merged layer; a layer in another state adds nothing. */
int sq_merge_count(struct sq_merge_counts *c, const struct sq_layer *l,
                   const struct sq_config *cfg) SQ_MUSTUSE;

/* Scales and zero points as they are stored, of rows whose grid comes from p, u, l: scales rounded to type
 * (SQ_F16: at least 2^-14; SQ_F32), then zero points, always a code: 2^(bits-1) when symmetric. out scale as
 * float [rows, G]. */
int sq_merge_grid(float *scale, uint8_t *zero, const float *z, const struct sq_rowq *p, const float *u,
                  const float *l, enum sq_dtype type, int64_t rows, int64_t cols) SQ_MUSTUSE;

/* The current record of in is a float table [rows, cols] (its header is rec): write "<name>.codes" u8,
 * ".scales", ".zeros" in its place, name without a final ".weight", each with the scheme in its header. The
 * table is never whole in memory. SQ_E_VALUE on NaN or Inf. */
int sq_table_round(struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec,
                   const struct sq_scheme *s, enum sq_dtype scale_type, struct sq_merge_counts *c) SQ_MUSTUSE;

/* A table read from a stream: floats, or codes with their scales and zero points, which come one after the
 * other. */
struct sq_table {
    struct sq_tensor weight; /* floats; no data when there are codes */
    struct sq_tensor codes, scales, zeros;
    int64_t group; /* 0: whole rows */
};

#define SQ_TABLE_INIT                                                                                        \
    {                                                                                                        \
        SQ_TENSOR_INIT, SQ_TENSOR_INIT, SQ_TENSOR_INIT, SQ_TENSOR_INIT, 0                                    \
    }

/* Offer a tensor to the table called name ("model.embed_tokens.weight"): 1 it belonged to it and was moved
 * in, 0 it did not. A wrong dtype or shape, or a second one: SQ_E_FORMAT. */
int sq_table_offer(struct sq_table *t, struct sq_tensor *x, const char *name) SQ_MUSTUSE;
/* 1 when it can be read, 0 when nothing came, SQ_E_FORMAT when a part is missing. */
int sq_table_ready(struct sq_table *t, const char *name) SQ_MUSTUSE;
int64_t sq_table_rows(const struct sq_table *t);
int64_t sq_table_cols(const struct sq_table *t);
/* out [n, cols] = rows first ... first + n - 1 as float32; SQ_E_VALUE on NaN or Inf */
int sq_table_read(float *out, const struct sq_table *t, int64_t first, int64_t n) SQ_MUSTUSE;
void sq_table_release(struct sq_table *t);

SQ_END_DECLS
#endif
