/* A float is NaN or Inf when all bits of its exponent are set: integers only, one pass, so that a whole
 * checkpoint can be looked at for the price of reading it. */
#include "sq/tensor.h"

static int64_t find16(const uint16_t *x, int64_t n, uint16_t exponent)
{
    enum { RUN = 4096 };
    for (int64_t at = 0; at < n; at += RUN) {
        const int64_t end = SQ_MIN(n, at + RUN);
        unsigned bad = 0;
        for (int64_t i = at; i < end; i++)
            bad |= (x[i] & exponent) == exponent;
        for (int64_t i = at; bad && i < end; i++)
            if ((x[i] & exponent) == exponent)
                return i;
    }
    return -1;
}

static int64_t find32(const uint32_t *x, int64_t n)
{
    enum { RUN = 4096, EXPONENT = 0x7f800000 };
    for (int64_t at = 0; at < n; at += RUN) {
        const int64_t end = SQ_MIN(n, at + RUN);
        unsigned bad = 0;
        for (int64_t i = at; i < end; i++)
            bad |= (x[i] & EXPONENT) == EXPONENT;
        for (int64_t i = at; bad && i < end; i++)
            if ((x[i] & EXPONENT) == EXPONENT)
                return i;
    }
    return -1;
}

static int64_t find64(const uint64_t *x, int64_t n)
{
    const uint64_t exponent = 0x7ff0000000000000u;
    for (int64_t i = 0; i < n; i++)
        if ((x[i] & exponent) == exponent)
            return i;
    return -1;
}

int sq_tensor_check_finite(const struct sq_tensor *t)
{
    const int64_t n = sq_tensor_count(t);
    const int64_t at = t->dtype == SQ_F32    ? find32(t->data, n)
                       : t->dtype == SQ_F64  ? find64(t->data, n)
                       : t->dtype == SQ_F16  ? find16(t->data, n, 0x7c00)
                       : t->dtype == SQ_BF16 ? find16(t->data, n, 0x7f80)
                                             : -1;
    if (at >= 0)
        return sq_fail(SQ_E_VALUE, "tensor '%s': element %" PRId64 " of %" PRId64 " is NaN or Inf",
                       t->name, at, n);
    return 0;
}
