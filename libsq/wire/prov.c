#include "wire.h"

json_t *wire_provenance(const struct sq_app *app, enum sq_isa kernels)
{
    static const char *const backend[] = {"auto", "ref", "cpu", "cuda"};
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
                     precision[app->precision], "isa", sq_isa_name(kernels));
}
