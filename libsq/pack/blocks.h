/* Blocks of the GGUF types, byte for byte. Fields that are float16 are uint16_t, little-endian as the file. */
#ifndef SQ_PACK_BLOCKS_H
#define SQ_PACK_BLOCKS_H

#include <assert.h>
#include <stdint.h>

#include "sq/pack.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "GGUF blocks are written as they lie in memory: little-endian machines only"
#endif

enum { QK = 32, QK_K = 256, BLOCK_MAX = 256 };

struct block_q4_0 {
    uint16_t d;
    uint8_t qs[16]; /* value j low, value j + 16 high nibble */
};
struct block_q4_1 {
    uint16_t d, m;
    uint8_t qs[16];
};
struct block_q5_0 {
    uint16_t d;
    uint8_t qh[4]; /* bit j: fifth bit of value j */
    uint8_t qs[16];
};
struct block_q8_0 {
    uint16_t d;
    int8_t qs[32];
};
struct block_q2_k {
    uint8_t scales[16]; /* scale low, min high nibble, of 16 values each */
    uint8_t qs[64];     /* 128 values in 32 bytes: bits 2i, 2i+1 of byte j are value 32i + j */
    uint16_t d, dmin;
};
struct block_q3_k {
    uint8_t hmask[32]; /* bit i of byte j: third bit of value 32i + j */
    uint8_t qs[64];    /* as q2_k */
    uint8_t scales[12];
    uint16_t d;
};
struct block_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qs[128]; /* 64 values in 32 bytes: low nibbles the first 32, high nibbles the next */
};
struct block_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32]; /* bit i of byte j: fifth bit of value 32i + j */
    uint8_t qs[128];
};
struct block_q6_k {
    uint8_t ql[128]; /* 128 values in 64 bytes: nibble i of byte j is value 64i + j */
    uint8_t qh[64];  /* 128 values in 32 bytes: bits 2i, 2i+1 of byte j are value 32i + j */
    int8_t scales[16];
    uint16_t d;
};

static_assert(sizeof(struct block_q4_0) == 18, "q4_0");
static_assert(sizeof(struct block_q4_1) == 20, "q4_1");
static_assert(sizeof(struct block_q5_0) == 22, "q5_0");
static_assert(sizeof(struct block_q8_0) == 34, "q8_0");
static_assert(sizeof(struct block_q2_k) == 84, "q2_k");
static_assert(sizeof(struct block_q3_k) == 110, "q3_k");
static_assert(sizeof(struct block_q4_k) == 144, "q4_k");
static_assert(sizeof(struct block_q5_k) == 176, "q5_k");
static_assert(sizeof(struct block_q6_k) == 210, "q6_k");

/* Columns [col, col + n) of a row: one block, or, of a float type, any n up to BLOCK_MAX. */
bool pack_part(void *out, const struct sq_grid *g, int64_t row, int64_t col, int n, enum sq_pack_type t,
               enum sq_pack_loss loss);

/* n values as a float type; false when one of them does not survive at that loss. */
bool pack_floats(void *out, const float *w, int64_t n, enum sq_pack_type t, enum sq_pack_loss loss);

#endif
