#include "made.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *made_backend(char *buf, size_t n, const struct sq_ops *ops)
{
    snprintf(buf, n, "%s %s %s", ops->name, ops->isa, ops->precision == SQ_F32_PRODUCTS ? "f32" : "bf16");
    return buf;
}

const char *made_number(char buf[MADE_NUMBER], double x)
{
    int digits = 6;
    do
        snprintf(buf, MADE_NUMBER, "%.*g", digits, x);
    while (strtod(buf, NULL) != x && ++digits <= 17);
    return buf;
}

int made_note(json_t *made, const char *key, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    json_t *text = json_vsprintf(fmt, ap);
    va_end(ap);
    return json_object_set_new(made, key, text) < 0
               ? sq_fail(SQ_E_NOMEM, "no memory for what a window is made of")
               : 0;
}

static int note_plan(json_t *made, const struct sq_plan *p)
{
    static const char *const init[] = {"preset", "minmax", "mse", "act"}, *const loss[] = {"mse", "token", "mix"};
    static const char *const lr[SQ_P_KINDS] = {"--lr-alpha", "--lr-lora", "--lr-clip"};
    char scheme[SQ_SCHEME_NAME], x[MADE_NUMBER], rates[SQ_MAX_RATES * MADE_NUMBER] = "";
    size_t n = 0;
    int rc;
    for (int i = 0; i < p->nrate; i++)
        n += (size_t)snprintf(rates + n, sizeof rates - n, "%s%s", i ? " " : "", made_number(x, p->rate[i]));
    SQ_TRY(made_note(made, "--scheme", "%s", sq_scheme_name(scheme, &p->scheme)));
    SQ_TRY(made_note(made, "--preset", "%s", p->paper ? "paper" : "default"));
    SQ_TRY(made_note(made, "--learn", "%s", p->learn));
    SQ_TRY(made_note(made, "--schedule", "%s", p->schedule));
    SQ_TRY(made_note(made, "--windows", "%s", p->windows ? p->windows : "all"));
    SQ_TRY(made_note(made, "--order", "%s", p->window_order ? "window" : "pass"));
    SQ_TRY(made_note(made, "--gamma", "%s", made_number(x, p->share)));
    SQ_TRY(made_note(made, "--rate", "%s", rates));
    SQ_TRY(made_note(made, "--epochs", "%" PRId64, p->epochs));
    SQ_TRY(made_note(made, "--batch", "%" PRId64, p->batch));
    SQ_TRY(made_note(made, "--shards", "%" PRId64, p->shards));
    SQ_TRY(made_note(made, "--rank", "%" PRId64, p->params.rank));
    for (int i = 0; i < SQ_P_KINDS; i++)
        SQ_TRY(made_note(made, lr[i], "%s%s", made_number(x, p->lr[i]),
                         i == SQ_P_LORA && p->lora_steps > 0.0 ? " by preset" : ""));
    SQ_TRY(made_note(made, "--init", "%s", init[p->init]));
    SQ_TRY(made_note(made, "--loss", "%s", loss[p->loss]));
    SQ_TRY(made_note(made, "--seed", "%" PRId64, p->params.seed));
out:
    return rc;
}

static int note_machine(json_t *made, const struct sq_ops *ops)
{
    int rc = made_note(made, "sq", "%s", SQ_VERSION);
    if (rc == 0)
        rc = made_note(made, "--precision", "%s", ops->precision == SQ_F32_PRODUCTS ? "f32" : "bf16");
    return rc == 0 ? made_note(made, "--backend", "%s (%s)", ops->name, ops->isa) : rc;
}

int made_of(json_t **out, const struct sq_plan *p, const struct sq_ops *ops)
{
    json_t *made = json_object();
    int rc = made ? note_machine(made, ops) : sq_fail(SQ_E_NOMEM, "no memory for what a window is made of");
    if (rc == 0)
        rc = note_plan(made, p);
    if (rc < 0)
        json_decref(made);
    *out = rc < 0 ? NULL : made;
    return rc;
}

/* Of long lists that part where they differ. */
static int differs(const char *was, const char *is, const char *key, const char *what)
{
    enum { BEFORE = 60, SHOWN = 120 };
    size_t same = 0;
    while (was[same] && was[same] == is[same])
        same++;
    const size_t from = same > BEFORE ? same - BEFORE : 0;
    const char *dots = from ? "..." : "";
    return sq_fail(SQ_E_ARG, "%s was made with %s %s%.*s, this run has %s %s%.*s", what, key, dots, SHOWN, was + from, key,
                   dots, SHOWN, is + from);
}

int made_compare(const json_t *said, const json_t *mine, const char *what)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)mine, key, value) {
        const char *was = json_string_value(json_object_get(said, key)), *is = json_string_value(value);
        if (!was || strcmp(was, is) != 0)
            return differs(was ? was : "unknown", is, key, what);
    }
    return 0;
}
