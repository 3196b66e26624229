/* sq/isa.h - which instructions may be used: what the processor has, and what SQ_ISA in the environment says
 *
 *   base      plain C, no vector kernels, no libraries
 *   vector    our kernels for this processor, no libraries
 *   avx2      as on a processor that has AVX2 and nothing newer; BLIS only if it chose a kernel for AVX2
 *             (BLIS_ARCH_TYPE=haswell makes it)
 *   avx512    as on one that has AVX-512 (F, VL, DQ, BW) and nothing newer; BLIS likewise (skx)
 *   unset, empty   all that the processor and the libraries have
 *
 * Results of two settings differ in the last bits of sums. Those of one are the same on all processors that have it, as long
 * as BLIS chooses the same kernels, which `isa` of sq/op.h names. */
#ifndef SQ_ISA_H
#define SQ_ISA_H

#include "sq/base.h"

SQ_BEGIN_DECLS

enum sq_isa { SQ_ISA_BASE, SQ_ISA_AVX2, SQ_ISA_AVX512, SQ_ISA_ANY };

/* The most of the first three that the processor has. */
enum sq_isa sq_isa_here(void);

/* What our kernels are to use, never ANY, and what libraries may (BASE: no libraries). SQ_E_ARG: SQ_ISA is unknown;
 * SQ_E_UNSUP: the processor lacks what it asks for. */
int sq_isa_get(enum sq_isa *kernels, enum sq_isa *libraries) SQ_MUSTUSE;

/* "avx2", "avx512"; of BASE the compiler's target: "x86-64", "aarch64", "generic". */
const char *sq_isa_name(enum sq_isa isa);

SQ_END_DECLS
#endif
