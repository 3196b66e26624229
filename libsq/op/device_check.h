/* How an operation of a device is compared with the reference. Private to op. */
#ifndef SQ_DEVICE_CHECK_H
#define SQ_DEVICE_CHECK_H

#include "sq/device.h"

/* Unit roundoff of f32; limits are multiples of its square. */
#define CHECK_U2 (1.0 / (1 << 24) / (1 << 24))
#define CHECK_BITS 0.0 /* limit: the reference's bits */

enum { CHECK_ARGS = 16, CHECK_DIMS = 10 };

enum check_role { CHECK_IN, CHECK_OUT };

/* One array of an operation. */
struct check_arg {
    enum check_role role;
    enum sq_dtype type;
    int64_t n;
    double limit; /* of an output: of its NMSE */
    void *init, *want, *got, *first;
    char *device; /* with guards on both sides */
};

struct check_call {
    const int64_t *z; /* the shape */
    struct check_arg arg[CHECK_ARGS];
    int nargs;
    uint64_t random;
    double scratch; /* what an operation's rows may use from set up to run */
};

struct check_op {
    const char *name, *dims; /* dims: names of z */
    void (*args)(struct check_call *c);
    void (*ref)(void *const *p, const int64_t *z);
    void (*dev)(const struct sq_device_ops *o, struct sq_gpu *g, void *const *p, const int64_t *z);
    const int64_t (*shape)[CHECK_DIMS];
    int64_t shapes;
    int64_t large[CHECK_DIMS];
    double (*flops)(const int64_t *z); /* NULL: bound by bytes */
};

extern const struct check_op check_ops[];
extern const int64_t check_nops;

/* Arguments in the order of p; values of an input are about normal, an output is untouched (NaN) unless `filled`. */
void check_in(struct check_call *c, enum sq_dtype type, int64_t n);
void check_out(struct check_call *c, enum sq_dtype type, int64_t n, double limit);
void check_filled(struct check_call *c, enum sq_dtype type, int64_t n, double limit);
/* rows of n values, ld apart; what is between stays untouched */
void check_in_rows(struct check_call *c, int64_t rows, int64_t n, int64_t ld);
void check_filled_rows(struct check_call *c, int64_t rows, int64_t n, int64_t ld, double limit);
/* the values of the last argument, to change */
void *check_last(struct check_call *c);
double check_normal(struct check_call *c);

#endif
