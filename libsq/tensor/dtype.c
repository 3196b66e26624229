#include "sq/tensor.h"

#include <string.h>

static const struct {
    const char *name;
    size_t size;
} table[SQ_DTYPES] = {
    [SQ_F32] = {"f32", 4}, [SQ_F16] = {"f16", 2}, [SQ_BF16] = {"bf16", 2}, [SQ_F64] = {"f64", 8},
    [SQ_U8] = {"u8", 1},   [SQ_I8] = {"i8", 1},   [SQ_I32] = {"i32", 4},   [SQ_I64] = {"i64", 8},
};

size_t sq_dtype_size(enum sq_dtype t)
{
    return table[t].size;
}

const char *sq_dtype_name(enum sq_dtype t)
{
    return table[t].name;
}

int sq_dtype_parse(enum sq_dtype *out, const char *name)
{
    for (int t = 0; t < SQ_DTYPES; t++)
        if (strcmp(name, table[t].name) == 0) {
            *out = (enum sq_dtype)t;
            return 0;
        }
    return sq_fail(SQ_E_UNSUP, "dtype '%.40s' is not supported", name);
}

static float bits_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

float sq_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 31u, man = h & 1023u;
    if (exp == 31)
        return bits_f32(sign | 0x7f800000u | man << 13);
    if (exp == 0) /* zero or subnormal: man * 2^-24 is exact */
        return bits_f32(sign | f32_bits((float)man * 0x1p-24f));
    return bits_f32(sign | (exp + 112u) << 23 | man << 13);
}

uint16_t sq_f32_to_f16(float f)
{
    const uint32_t u = f32_bits(f), sign = (u >> 16) & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (mag >= 0x477ff000u) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00u);
    if (mag < 0x38800000u) /* below 2^-14: the addition rounds to a multiple of 2^-24 */
        return (uint16_t)(sign | (f32_bits(bits_f32(mag) + 0.5f) - f32_bits(0.5f)));
    return (uint16_t)(sign | ((mag + 0xfffu + ((mag >> 13) & 1u) - (112u << 23)) >> 13));
}

float sq_bf16_to_f32(uint16_t h)
{
    return bits_f32((uint32_t)h << 16);
}

uint16_t sq_f32_to_bf16(float f)
{
    const uint32_t u = f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 64u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

void sq_bf16_widen(float *out, const uint16_t *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = (uint32_t)x[i] << 16;
        memcpy(&out[i], &bits, sizeof bits);
    }
}

void sq_bf16_narrow(uint16_t *out, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        const uint32_t near = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, nan = bits >> 16 | 0x40;
        out[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? nan : near);
    }
}
