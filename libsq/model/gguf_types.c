/* ggml's tensor types, decoded one block at a time as plainly as possible: d and m are f16 scales, sc
 * and mn the small integers that divide a block of 256 further. Multiplications are in ggml's order, so
 * that the values are bit for bit those that its readers see. */
#include "sq/gguf.h"

#include <string.h>

static float f16(const uint8_t *p)
{
    return sq_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static void f32_block(float *y, const uint8_t *b)
{
    memcpy(y, b, 4);
}

static void f16_block(float *y, const uint8_t *b)
{
    *y = f16(b);
}

static void bf16_block(float *y, const uint8_t *b)
{
    *y = sq_bf16_to_f32((uint16_t)(b[0] | b[1] << 8));
}

/* d, 16 bytes: low nibbles are elements 0..15, high ones 16..31 */
static void q4_0(float *y, const uint8_t *b)
{
    const float d = f16(b);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)((b[2 + j] & 15) - 8) * d;
        y[j + 16] = (float)((b[2 + j] >> 4) - 8) * d;
    }
}

/* d, m, nibbles */
static void q4_1(float *y, const uint8_t *b)
{
    const float d = f16(b), m = f16(b + 2);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)(b[4 + j] & 15) * d + m;
        y[j + 16] = (float)(b[4 + j] >> 4) * d + m;
    }
}

/* element i of nibbles qs with its fifth bit from qh */
static int five(const uint8_t *qs, const uint8_t *qh, int i)
{
    const int low = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
    return low | (qh[i / 8] >> i % 8 & 1) << 4;
}

static void q5_0(float *y, const uint8_t *b)
{
    const float d = f16(b);
    for (int i = 0; i < 32; i++)
        y[i] = (float)(five(b + 6, b + 2, i) - 16) * d;
}

static void q5_1(float *y, const uint8_t *b)
{
    const float d = f16(b), m = f16(b + 2);
    for (int i = 0; i < 32; i++)
        y[i] = (float)five(b + 8, b + 4, i) * d + m;
}

static void q8_0(float *y, const uint8_t *b)
{
    const float d = f16(b);
    for (int i = 0; i < 32; i++)
        y[i] = (float)(int8_t)b[2 + i] * d;
}

/* 16 bytes sc | mn << 4, 64 bytes of 2-bit codes, d, dmin. Codes of element i: byte 32 (i / 128) + i %
 * 32, bits 2 (i / 32 % 4); Q3_K keeps its low bits in the same way. */
static int two(const uint8_t *qs, int i)
{
    return qs[32 * (i / 128) + i % 32] >> 2 * (i / 32 % 4) & 3;
}

static void q2_k(float *y, const uint8_t *b)
{
    const float d = f16(b + 80), dmin = f16(b + 82);
    for (int i = 0; i < 256; i++) {
        const uint8_t s = b[i / 16];
        y[i] = d * (float)(s & 15) * (float)two(b + 16, i) - dmin * (float)(s >> 4);
    }
}

/* 32 bytes of third bits (bit i / 32 of byte i % 32, set: nothing is subtracted), 64 of low bits, 12
 * bytes with 16 scales of 6 bits: low nibbles in 0..7, upper bits in 8..11; d */
static void q3_k(float *y, const uint8_t *b)
{
    const uint8_t *sc = b + 96;
    const float d = f16(b + 108);
    for (int i = 0; i < 256; i++) {
        const int k = i / 16, low = k < 8 ? sc[k] & 15 : sc[k - 8] >> 4,
                  high = sc[8 + k % 4] >> 2 * (k / 4) & 3;
        const int q = two(b + 32, i) - (b[i % 32] >> i / 32 & 1 ? 0 : 4);
        y[i] = d * (float)((low | high << 4) - 32) * (float)q;
    }
}

/* Scale and minimum j of 8 in 12 bytes:  0..3: sc0-3 + top bits of sc4-7 | 4..7: mn0-3 + top bits of
 * mn4-7 | 8..11: low nibbles of sc4-7 and of mn4-7 */
static void scale_min(float *sc, float *mn, const uint8_t *s, int j)
{
    *sc = (float)(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4);
    *mn = (float)(j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4);
}

/* d, dmin, 12 bytes of scales, [Q5_K: 32 bytes of fifth bits: bit i / 32 of byte i % 32], 128 bytes of
 * nibbles: each 32 bytes hold 32 elements low and the next 32 high */
static void k45(float *y, const uint8_t *b, const uint8_t *qh, const uint8_t *qs)
{
    const float d = f16(b), dmin = f16(b + 2);
    for (int j = 0; j < 8; j++) {
        float sc, mn;
        scale_min(&sc, &mn, b + 4, j);
        for (int l = 0; l < 32; l++) {
            int q = qs[j / 2 * 32 + l] >> 4 * (j % 2) & 15;
            if (qh)
                q |= (qh[l] >> j & 1) << 4;
            y[32 * j + l] = d * sc * (float)q - dmin * mn;
        }
    }
}

static void q4_k(float *y, const uint8_t *b)
{
    k45(y, b, NULL, b + 16);
}

static void q5_k(float *y, const uint8_t *b)
{
    k45(y, b, b + 16, b + 48);
}

/* 128 bytes of low nibbles, 64 of upper 2 bits, 16 signed scales, d; each half of 128 elements: element
 * 32 k + l has its nibble in byte 32 (k % 2) + l (k < 2: low) and its upper bits in byte l, bits 2 k */
static void q6_k(float *y, const uint8_t *b)
{
    const float d = f16(b + 208);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, k = i / 32 % 4, l = i % 32;
        const int low = b[64 * half + 32 * (k % 2) + l] >> 4 * (k / 2) & 15;
        const int high = b[128 + 32 * half + l] >> 2 * k & 3;
        y[i] = d * (float)(int8_t)b[192 + i / 16] * (float)((low | high << 4) - 32);
    }
}

/* the 16 values of the non-linear 4-bit types */
static const float curve[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                1,    13,   25,  38,  53,  69,  89,  113};

static void iq4_nl(float *y, const uint8_t *b)
{
    const float d = f16(b);
    for (int j = 0; j < 16; j++) {
        y[j] = d * curve[b[2 + j] & 15];
        y[j + 16] = d * curve[b[2 + j] >> 4];
    }
}

/* d, 2 bytes with the upper 2 bits of 8 scales, 4 with their lower 4, nibbles in groups of 32 */
static void iq4_xs(float *y, const uint8_t *b)
{
    const float d = f16(b);
    for (int g = 0; g < 8; g++) {
        const int sc = (b[4 + g / 2] >> 4 * (g % 2) & 15) | (b[2 + g / 4] >> 2 * (g % 4) & 3) << 4;
        const float dl = d * (float)(sc - 32);
        for (int j = 0; j < 16; j++) {
            y[32 * g + j] = dl * curve[b[8 + 16 * g + j] & 15];
            y[32 * g + j + 16] = dl * curve[b[8 + 16 * g + j] >> 4];
        }
    }
}

/* ggml's numbers; a type without a decoder is known by name only */
static const struct {
    const char *name;
    int64_t elements;
    size_t bytes;
    void (*decode)(float *y, const uint8_t *block);
} types[] = {
    [0] = {"F32", 1, 4, f32_block},    [1] = {"F16", 1, 2, f16_block},
    [2] = {"Q4_0", 32, 18, q4_0},      [3] = {"Q4_1", 32, 20, q4_1},
    [6] = {"Q5_0", 32, 22, q5_0},      [7] = {"Q5_1", 32, 24, q5_1},
    [8] = {"Q8_0", 32, 34, q8_0},      [9] = {"Q8_1", 32, 40, NULL},
    [10] = {"Q2_K", 256, 84, q2_k},    [11] = {"Q3_K", 256, 110, q3_k},
    [12] = {"Q4_K", 256, 144, q4_k},   [13] = {"Q5_K", 256, 176, q5_k},
    [14] = {"Q6_K", 256, 210, q6_k},   [15] = {"Q8_K", 256, 292, NULL},
    [16] = {"IQ2_XXS", 256, 66, NULL}, [17] = {"IQ2_XS", 256, 74, NULL},
    [18] = {"IQ3_XXS", 256, 98, NULL}, [19] = {"IQ1_S", 256, 50, NULL},
    [20] = {"IQ4_NL", 32, 18, iq4_nl}, [21] = {"IQ3_S", 256, 110, NULL},
    [22] = {"IQ2_S", 256, 82, NULL},   [23] = {"IQ4_XS", 256, 136, iq4_xs},
    [24] = {"I8", 1, 1, NULL},         [25] = {"I16", 1, 2, NULL},
    [26] = {"I32", 1, 4, NULL},        [27] = {"I64", 1, 8, NULL},
    [28] = {"F64", 1, 8, NULL},        [29] = {"IQ1_M", 256, 56, NULL},
    [30] = {"BF16", 1, 2, bf16_block}, [34] = {"TQ1_0", 256, 54, NULL},
    [35] = {"TQ2_0", 256, 66, NULL},   [39] = {"MXFP4", 32, 17, NULL},
};

const char *sq_gguf_type_name(int type)
{
    return type >= 0 && type < SQ_COUNT(types) ? types[type].name : NULL;
}

int sq_gguf_type_size(int64_t *elements, size_t *bytes, int type)
{
    const char *name = sq_gguf_type_name(type);
    if (!name)
        return sq_fail(SQ_E_UNSUP, "tensor type %d is not known", type);
    if (!types[type].decode)
        return sq_fail(SQ_E_UNSUP, "tensor type %s is not supported", name);
    *elements = types[type].elements;
    *bytes = types[type].bytes;
    return 0;
}

void sq_gguf_dequant(float *out, int type, const void *blocks, int64_t n)
{
    const uint8_t *b = blocks;
    SQ_ASSERT(sq_gguf_type_name(type) && types[type].decode && n % types[type].elements == 0);
    if (type == 0) {
        if (n)
            memcpy(out, b, (size_t)n * 4);
        return;
    }
    for (int64_t i = 0; i < n; i += types[type].elements, b += types[type].bytes)
        types[type].decode(out + i, b);
}
