/* The values of one tensor of the stream, however they travel: floats, or codes with scales and zero points. */
#ifndef SQ_PACK_VALUES_H
#define SQ_PACK_VALUES_H

#include "plan.h"
#include "sq/layer.h"
#include "sq/pack.h"

enum { RUN_VALUES = 1 << 20 }; /* about so many are held as float32 at a time */

struct values {
    const struct sq_tensor *weight; /* NULL: grid */
    struct sq_grid grid;
    float *scales; /* the grid's, owned */
    int64_t rows, cols; /* a vector is a column, so that its elements move like rows */
};

/* Of entry e, from the tensors of its layer or those outside of layers, shapes and dtypes checked. group is that of linears
 * (a table's is seen from its scales). */
int values_open(struct values *v, const struct plan_entry *e, const struct sq_layer *bag, int64_t group) SQ_MUSTUSE;
void values_close(struct values *v);
/* w = rows [first, first + n) as the stream has them. NaN or Inf: SQ_E_VALUE. */
int values_read(float *w, const struct values *v, int64_t first, int64_t n) SQ_MUSTUSE;
/* The smallest float type that holds every value of a weight: checkpoints of bfloat16 may come as float32. */
int values_float_type(enum sq_pack_type *t, const struct values *v) SQ_MUSTUSE;

#endif
