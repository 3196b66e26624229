/* What the CPU backend may be made of: the kernels of each instruction set with their own tile, and at last those of this
 * processor with the libraries. WIDE is the source of AVX-512 in AVX2 registers (vec_wide_avx2.c). */
#ifndef LEVELS_H
#define LEVELS_H

#include "../../libsq/op/cpu/cpu.h"

enum { LEVEL_BASE, LEVEL_AVX2, LEVEL_WIDE, LEVEL_AVX512, LEVEL_LIBRARIES, LEVELS };

extern const struct sq_vec sq_vec_wide;

static inline bool level_here(int level)
{
    static bool said;
    if (level == LEVEL_AVX512 && sq_isa_here() < SQ_ISA_AVX512 && !said) {
        print_message("skipped: kernels in AVX-512 registers, which this processor does not have\n");
        said = true;
    }
    return level == LEVEL_BASE || level == LEVEL_LIBRARIES ||
           sq_isa_here() >= (level == LEVEL_AVX512 ? SQ_ISA_AVX512 : SQ_ISA_AVX2);
}

/* The first level after this one that the processor can run; LEVELS after the last. */
static inline int next_level(int level)
{
    do
        level++;
    while (level < LEVELS && !level_here(level));
    return level;
}

#define EACH_LEVEL(level) for (int level = next_level(-1); level < LEVELS; level = next_level(level))

static inline void level_set(int level)
{
    const struct sq_vec *vec[LEVELS] = {sq_vec_of(SQ_ISA_BASE), sq_vec_of(SQ_ISA_AVX2), &sq_vec_wide,
                                        sq_vec_of(SQ_ISA_AVX512), sq_vec_of(sq_isa_here())};
    assert_int_equal(sq_cpu_init(vec[level], level == LEVEL_LIBRARIES ? SQ_ISA_ANY : SQ_ISA_BASE), 0);
}

#endif
