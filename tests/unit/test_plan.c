/* what options, presets and scheme become: the table of docs/method.md 4, and the default's own start */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sq/engine.h"

static struct sq_plan make(const char *scheme, int preset)
{
    struct sq_window_opts o = SQ_WINDOW_OPTS_INIT;
    struct sq_plan p;
    o.scheme = scheme;
    o.preset = preset;
    assert_int_equal(sq_plan_make(&p, &o, 0), 0);
    return p;
}

static void paper_is_as_published(void **state)
{
    (void)state;
    const struct {
        const char *scheme;
        double alpha, lora;
        int64_t epochs;
    } rows[] = {{"W4A4", 1e-3, 1e-4, 20}, {"W4A16", 0, 5e-4, 20}, {"W3A16g128", 0, 5e-4, 20}, {"W2A16", 0, 5e-4, 60}};
    for (int i = 0; i < SQ_COUNT(rows); i++) {
        const struct sq_plan p = make(rows[i].scheme, SQ_PRESET_PAPER);
        assert_true(p.lr[SQ_P_ALPHA] == rows[i].alpha && p.lr[SQ_P_LORA] == rows[i].lora && p.lr[SQ_P_CLIP] == 1e-2);
        assert_int_equal(p.epochs, rows[i].epochs);
        assert_true(p.init == SQ_INIT_MINMAX && p.loss == SQ_LOSS_MSE && p.params.scaling == (rows[i].alpha > 0));
        for (int k = 0; k < SQ_P_KINDS; k++)
            assert_true(sq_plan_lr(&p, (enum sq_param_kind)k, 10) == p.lr[k]); /* whatever the budget */
        assert_true(p.nrate == 2 && p.rate[0] == 0.5 && p.rate[1] == 1.0 && p.share == 0.5);
    }
}

static void a_searched_start_is_learned_slowly(void **state)
{
    (void)state;
    const struct sq_plan p = make("W2A16", SQ_PRESET_DEFAULT);
    assert_true(p.init == SQ_INIT_ACT && p.loss == SQ_LOSS_MIX);
    assert_true(fabs(p.lr[SQ_P_CLIP] - 3e-4) < 1e-12 && p.lr[SQ_P_LORA] == 5e-4);
    struct sq_window_opts o = SQ_WINDOW_OPTS_INIT;
    struct sq_plan q;
    o.scheme = "W2A16";
    o.lr[SQ_P_CLIP] = 0.25;
    assert_int_equal(sq_plan_make(&q, &o, 0), 0);
    assert_true(sq_plan_lr(&q, SQ_P_CLIP, 10) == 0.25);
}

/* 60 epochs of 43 steps in two stages */
static void lora_goes_faster_as_the_budget_shrinks(void **state)
{
    (void)state;
    const struct sq_plan p = make("W2A16", SQ_PRESET_DEFAULT);
    assert_true(fabs(sq_plan_lr(&p, SQ_P_LORA, 1290) / 5e-4 - 1) < 1e-12);
    assert_true(fabs(sq_plan_lr(&p, SQ_P_LORA, 1290 / 6) / 5e-4 - sqrt(6)) < 1e-9);
    assert_true(fabs(sq_plan_lr(&p, SQ_P_LORA, 1290 * 4) / 5e-4 - 0.5) < 1e-9);
    assert_true(fabs(sq_plan_lr(&p, SQ_P_LORA, 1) / 5e-3 - 1) < 1e-12);
    assert_true(sq_plan_lr(&p, SQ_P_CLIP, 1) == p.lr[SQ_P_CLIP] && sq_plan_lr(&p, SQ_P_ALPHA, 1) == 0.0);
    struct sq_window_opts o = SQ_WINDOW_OPTS_INIT;
    struct sq_plan q;
    o.scheme = "W2A16";
    o.lr[SQ_P_LORA] = 0.25;
    assert_int_equal(sq_plan_make(&q, &o, 0), 0);
    assert_true(sq_plan_lr(&q, SQ_P_LORA, 10) == 0.25);
}

static void plain_rounding_needs_no_activations(void **state)
{
    (void)state;
    struct sq_window_opts o = SQ_WINDOW_OPTS_INIT;
    struct sq_plan p;
    o.scheme = "W3A16";
    o.learn = "none";
    assert_int_equal(sq_plan_make(&p, &o, 0), 0);
    assert_false(p.learns || p.needs_acts || p.params.clip);
    o.learn = "lora,lora";
    assert_int_equal(sq_plan_make(&p, &o, 0), SQ_E_ARG);
    o.learn = NULL;
    o.gamma = 0.3;
    assert_int_equal(sq_plan_make(&p, &o, 0), SQ_E_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paper_is_as_published),
        cmocka_unit_test(a_searched_start_is_learned_slowly),
        cmocka_unit_test(lora_goes_faster_as_the_budget_shrinks),
        cmocka_unit_test(plain_rounding_needs_no_activations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
