/* errors, memory, random numbers, half floats, option tables */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sq/app.h"
#include "sq/hash.h"
#include "sq/json.h"
#include "sq/rng.h"
#include "sq/tensor.h"

#include "../../libsq/base/opt.h"

static void errors_have_names_and_statuses(void **state)
{
    (void)state;
    for (int code = SQ_E_PEER; code <= SQ_E_ARG; code++) {
        assert_string_not_equal(sq_err_name(code), "unknown");
        assert_in_range(sq_err_status(code), 1, 4);
    }
    assert_string_equal(sq_err_name(-99), "unknown");
    assert_int_equal(sq_err_status(SQ_E_TRUNC), 3);
    assert_int_equal(sq_err_status(SQ_E_PEER), 3);
    assert_int_equal(sq_fail(SQ_E_FORMAT, "tensor '%s'", "w"), SQ_E_FORMAT);
    assert_int_equal(sq_fail_in(SQ_E_FORMAT, "layer %d", 3), SQ_E_FORMAT);
    assert_string_equal(sq_errmsg(), "layer 3: tensor 'w'");
}

static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    size_t n;
    char *p = NULL;
    assert_int_equal(sq_mul_size(&n, SIZE_MAX, 2), SQ_E_ARG);
    assert_int_equal(sq_alloc_bytes((void **)&p, INT64_MAX, 16), SQ_E_ARG);
    assert_int_equal(sq_alloc(&p, -1), SQ_E_ARG);
    const int64_t before = sq_mem_used();
    assert_int_equal(sq_alloc(&p, 1000), 0);
    assert_int_equal((uintptr_t)p % 64, 0);
    assert_int_equal(sq_mem_used() - before, 1000);
    sq_free(p);
    assert_int_equal(sq_mem_used(), before);
}

static void random_numbers_depend_on_their_key_only(void **state)
{
    (void)state;
    struct sq_rng a = sq_rng_init(7, SQ_RNG_LORA, 1, 2, 3, 4), b = sq_rng_init(7, SQ_RNG_LORA, 1, 2, 3, 4);
    struct sq_rng c = sq_rng_init(7, SQ_RNG_ORDER, 1, 2, 3, 4);
    double sum = 0;
    int same = 0;
    for (int i = 0; i < 10000; i++) {
        const double x = sq_rng_uniform(&a);
        assert_true(x >= 0 && x < 1);
        assert_true(x == sq_rng_uniform(&b));
        same += x == sq_rng_uniform(&c);
        sum += x;
    }
    assert_int_equal(same, 0);
    assert_true(fabs(sum / 10000 - 0.5) < 0.02);
    int64_t v[50];
    int seen[50] = {0};
    for (int i = 0; i < 50; i++)
        v[i] = i;
    sq_rng_shuffle(&a, v, 50);
    for (int i = 0; i < 50; i++)
        seen[v[i]]++;
    for (int i = 0; i < 50; i++)
        assert_int_equal(seen[i], 1);
}

static void half_floats_round_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = sq_f16_to_f32((uint16_t)h), b = sq_bf16_to_f32((uint16_t)h);
        if (!isnan(f))
            assert_int_equal(sq_f32_to_f16(f), h);
        if (!isnan(b))
            assert_int_equal(sq_f32_to_bf16(b), h);
        if (isnan(f) || isinf(f) || (h & 0x7fff) == 0x7bff)
            continue;
        const float next = sq_f16_to_f32((uint16_t)(h + 1)), mid = (f + next) / 2; /* exact in f32 */
        assert_int_equal(sq_f32_to_f16(mid), h & 1 ? h + 1 : h);
    }
    assert_int_equal(sq_f32_to_f16(65519.0f), 0x7bff);
    assert_int_equal(sq_f32_to_f16(65520.0f), 0x7c00);
    assert_true(isnan(sq_f16_to_f32(sq_f32_to_f16(NAN))));
    assert_true(isnan(sq_bf16_to_f32(sq_f32_to_bf16(NAN))));
}

static void options_are_strict(void **state)
{
    (void)state;
    int64_t n = 3;
    double x = 0.5;
    bool flag = false;
    int choice = 0;
    struct sq_strs list = {.n = 0};
    const struct sq_opt rows[] = {
        SQ_OPT_INT('n', "number", &n, 1, 9, "a number"),    SQ_OPT_REAL(0, "rate", &x, 0, 1, "a rate"),
        SQ_OPT_FLAG(0, "flag", &flag, "a flag"),            SQ_OPT_ENUM(0, "mode", &choice, "one|two", "a choice"),
        SQ_OPT_LIST('t', "text", &list, "FILE", "a list"), SQ_OPT_END,
    };
    const struct {
        const char *argv[6];
        int rc;
    } cases[] = {
        {{"p", "-n", "4", "--rate=0.25", NULL}, 0}, {{"p", "op", "--mode", "two", "--flag", NULL}, 0},
        {{"p", "-n", "0", NULL}, SQ_E_ARG},         {{"p", "-n", "4x", NULL}, SQ_E_ARG},
        {{"p", "--num", "4", NULL}, SQ_E_ARG},      {{"p", "--rate", "nan", NULL}, SQ_E_ARG},
        {{"p", "--mode", "tw", NULL}, SQ_E_ARG},    {{"p", "--flag=1", NULL}, SQ_E_ARG},
        {{"p", "--number", NULL}, SQ_E_ARG},        {{"p", "-x", NULL}, SQ_E_ARG},
        {{"p", "-t", "a", "-t", "b", NULL}, 0},     {{"p", "--", "-n", NULL}, 0},
    };
    struct sq_opt_table t;
    sq_opt_join(&t, rows, NULL);
    for (int i = 0; i < SQ_COUNT(cases); i++) {
        char *argv[6], *arg[6];
        int argc = 0, narg;
        for (; cases[i].argv[argc]; argc++)
            argv[argc] = (char *)(uintptr_t)cases[i].argv[argc];
        argv[argc] = NULL;
        json_t *given = json_array();
        assert_int_equal(sq_opt_parse(&t, given, arg, &narg, argc, argv), cases[i].rc);
        json_decref(given);
    }
    assert_int_equal(n, 4);
    assert_true(x == 0.25 && flag && choice == 1 && list.n == 2);
}

static void integers_beyond_64_bits_are_read_as_reals(void **state)
{
    (void)state;
    static const char big[] = "{\"model_max_length\": 1000000000000000019884624838656, \"n\": 3, \"b\": true}";
    static const char huge[] = "{\"x\": 1e999}";
    json_t *json = NULL;
    double x = 0;
    int64_t i = 0;
    bool b = false;
    assert_int_equal(sq_json_parse(&json, big, sizeof big - 1, "text"), 0);
    assert_int_equal(sq_json_real(&x, json, "model_max_length"), 0);
    assert_true(x == 1e30);
    assert_int_equal(sq_json_bool(&b, json, "b"), 0);
    assert_int_equal(sq_json_int(&i, json, "n", 0, 9), 0); /* others stay integers */
    assert_int_equal(i, 3);
    json_decref(json);
    assert_int_equal(sq_json_parse(&json, big + 21, 31, "text"), SQ_E_FORMAT);
    assert_int_equal(sq_json_parse(&json, huge, sizeof huge - 1, "text"), SQ_E_FORMAT);
}

/* In pieces and whole, in either type, in place too: what is got is what was put, rounded once. */
static void floats_come_back_rounded_once(void **state)
{
    (void)state;
    enum { N = 3 * (1 << 15) + 77 };
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
    struct sq_rng rng = sq_rng_init(3, SQ_RNG_TEST, 0, 0, 0, 0);
    void *room = malloc(N * sizeof *x);
    for (int i = 0; i < N; i++)
        x[i] = (float)ldexp(sq_rng_uniform(&rng) - 0.5, i % 64 - 32);
    x[5] = NAN;
    for (enum sq_dtype type = SQ_F32; type <= SQ_BF16; type += SQ_BF16 - SQ_F32) {
        const struct sq_floats a = {type, room};
        sq_floats_put(a, x, 1000);
        sq_floats_put(sq_floats_from(a, 1000), x + 1000, N - 1000);
        sq_floats_get(y, a, N);
        for (int i = 0; i < N; i++) {
            const float want = type == SQ_F32 ? x[i] : sq_bf16_to_f32(sq_f32_to_bf16(x[i]));
            assert_true(i == 5 ? isnan(y[i]) : y[i] == want);
        }
        sq_floats_get(y, sq_floats_from(a, N - 3), 3);
        memcpy(room, x, N * sizeof *x);
        sq_floats_round(room, type, N);
        for (int i = 0; i < 3; i++)
            assert_true(y[i] == ((float *)room)[N - 3 + i]);
    }
    free(room);
    free(y);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_have_names_and_statuses),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(random_numbers_depend_on_their_key_only),
        cmocka_unit_test(half_floats_round_to_nearest_even),
        cmocka_unit_test(floats_come_back_rounded_once),
        cmocka_unit_test(options_are_strict),
        cmocka_unit_test(integers_beyond_64_bits_are_read_as_reals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
