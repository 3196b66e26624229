/* What the sources of quant share: the table of a layer's parameters, sizes of the fold's workspace,
 * parts of a merge. */
#ifndef SQ_QUANT_PRIVATE_H
#define SQ_QUANT_PRIVATE_H

#include "sq/merge.h"

enum { PARAMS_RANK_MAX = 4096 };

extern const char *const params_place_name[SQ_PLACES];
/* Shape of a place's alpha; returns its number of dimensions. */
int params_place_shape(int64_t dim[2], const struct sq_config *cfg, enum sq_place at);
/* Empty tables with room for every parameter. */
int params_tables(struct sq_params *p, const struct sq_config *cfg);
/* The arrays of everything declared. */
int params_allocate(struct sq_params *p, const struct sq_config *cfg);
/* Add a parameter without array. */
struct sq_param *params_declare(struct sq_params *p, enum sq_param_kind kind, const char *prefix,
                                const char *name, int ndim, int64_t d0, int64_t d1);
/* ---- params_device.c ---- */
int params_device_train(struct sq_params *p) SQ_MUSTUSE;
void params_device_release(struct sq_params *p);

/* Workspace of the fold. */
int64_t fold_partial_size(const struct sq_params *p); /* floats */
int64_t fold_strip_size(const struct sq_params *p);
int64_t fold_sums_size(const struct sq_params *p);    /* doubles */

/* Parts of a merge that layers and tables share. */
void merge_pack_scales(void *out, const float *scale, int64_t n, enum sq_dtype type);
int merge_codes(uint8_t *q, const float *z, const float *scale, const uint8_t *zero, const struct sq_rowq *p,
                int64_t rows, int64_t cols) SQ_MUSTUSE;
void merge_count(struct sq_merge_counts *c, const uint8_t *q, const float *scale, const uint8_t *zero,
                 enum sq_dtype type, const struct sq_rowq *p, int64_t rows, int64_t cols);

#endif
