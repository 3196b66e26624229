#include "sq/isa.h"

#include <stdlib.h>
#include <string.h>

enum sq_isa sq_isa_here(void)
{
#if defined __x86_64__
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return SQ_ISA_BASE;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw"))
        return SQ_ISA_AVX512;
    return SQ_ISA_AVX2;
#else
    return SQ_ISA_BASE;
#endif
}

int sq_isa_get(enum sq_isa *kernels, enum sq_isa *libraries)
{
    static const struct {
        const char *name;
        enum sq_isa kernels, libraries;
    } table[] = {{"", SQ_ISA_ANY, SQ_ISA_ANY},
                 {"base", SQ_ISA_BASE, SQ_ISA_BASE},
                 {"vector", SQ_ISA_ANY, SQ_ISA_BASE},
                 {"avx2", SQ_ISA_AVX2, SQ_ISA_AVX2},
                 {"avx512", SQ_ISA_AVX512, SQ_ISA_AVX512}};
    const char *text = getenv("SQ_ISA");
    const enum sq_isa here = sq_isa_here();
    int i = 0;
    while (text && i < SQ_COUNT(table) && strcmp(text, table[i].name) != 0)
        i++;
    if (i == SQ_COUNT(table))
        return sq_fail(SQ_E_ARG, "SQ_ISA is '%s', not base, vector, avx2 or avx512", text);
    *kernels = table[i].kernels == SQ_ISA_ANY ? here : table[i].kernels;
    *libraries = table[i].libraries;
    if (*kernels > here)
        return sq_fail(SQ_E_UNSUP, "SQ_ISA is '%s', which this processor does not have: it has %s", text,
                       sq_isa_name(here));
    return 0;
}

const char *sq_isa_name(enum sq_isa isa)
{
    if (isa > SQ_ISA_BASE)
        return isa == SQ_ISA_AVX2 ? "avx2" : "avx512";
#if defined __x86_64__
    return "x86-64";
#elif defined __aarch64__
    return "aarch64";
#else
    return "generic";
#endif
}
