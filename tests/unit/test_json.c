/* strict reading of JSON: what sq_json_parse takes and refuses */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sq/json.h"

static int parse(json_t **out, const char *text)
{
    return sq_json_parse(out, text, strlen(text), "text");
}

static void integers_beyond_64_bits_become_reals(void **state)
{
    (void)state;
    json_t *v = NULL;
    int64_t n = 0;
    double x = 0;
    assert_int_equal(parse(&v, "{\"max\": 1000000000000000019884624838656, \"n\": 42,"
                               " \"s\": \"99999999999999999999999 \\\" 99999999999999999999999\","
                               " \"f\": 0.3333333333333333333333333, \"neg\": -123456789012345678901234}"), 0);
    assert_int_equal(sq_json_real(&x, v, "max"), 0);
    assert_true(x > 0.99e30 && x < 1.01e30);
    assert_int_equal(sq_json_int(&n, v, "n", 0, 100), 0);
    assert_int_equal(n, 42);
    assert_int_equal(sq_json_int(&n, v, "max", 0, INT64_MAX), SQ_E_FORMAT);
    assert_string_equal(json_string_value(json_object_get(v, "s")), "99999999999999999999999 \" 99999999999999999999999");
    assert_int_equal(sq_json_real(&x, v, "neg"), 0);
    assert_true(x < -1.2e23 && x > -1.3e23);
    json_decref(v);
    assert_int_equal(parse(&v, "[9223372036854775807, 9223372036854775808]"), 0);
    assert_true(json_is_real(json_array_get(v, 1)));
    json_decref(v);
}

static void what_is_no_json_is_refused_with_its_line(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "{", "{\"a\": 1, \"a\": 2}", "[1,]", "[99999999999999999999999",
                                      "[1e999]", "\"99999999999999999999999", "nul"};
    for (int64_t i = 0; i < SQ_COUNT(bad); i++) {
        json_t *v = NULL;
        assert_int_equal(parse(&v, bad[i]), SQ_E_FORMAT);
        assert_null(v);
        assert_non_null(strstr(sq_errmsg(), "text: line "));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_beyond_64_bits_become_reals),
        cmocka_unit_test(what_is_no_json_is_refused_with_its_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
