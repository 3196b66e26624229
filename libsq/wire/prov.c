#include "wire.h"

/* What the processor can do decides which kernels ran, and so the last bits of sums. */
static const char *instruction_set(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
        return "avx512";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return "avx2";
    return "x86-64";
#elif defined(__aarch64__)
    return "aarch64";
#else
    return "generic";
#endif
}

json_t *wire_provenance(const struct sq_app *app)
{
    static const char *const backend[] = {"auto", "ref", "cpu"};
    static const char *const precision[] = {"bf16", "f32"};
    json_t *argv = app->given ? json_copy(app->given) : json_array();

    SQ_ASSERT(app->backend >= 0 && app->backend < SQ_COUNT(backend));
    SQ_ASSERT(app->precision >= 0 && app->precision < SQ_COUNT(precision));
    for (int i = 0; argv && i < app->narg; i++) {
        json_t *text = json_string(app->arg[i]);
        json_array_append_new(argv, text ? text : json_string("(not UTF-8)"));
    }
    return json_pack("{s:s, s:s, s:o, s:I, s:s, s:s, s:s}", "prog", app->prog, "version", SQ_VERSION, "argv",
                     argv, "seed", (json_int_t)app->seed, "backend", backend[app->backend], "precision",
                     precision[app->precision], "isa", instruction_set());
}
