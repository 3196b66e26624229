#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "sq/scheme.h"

static void test_good(void **state)
{
    (void)state;
    static const struct {
        const char *text, *name;
        int w, a;
        int64_t group;
        bool sym;
    } good[] = {
        {"W2A16", "W2A16", 2, 16, 0, false},           {"w4a4", "W4A4", 4, 4, 0, false},
        {"W3A16g128", "W3A16g128", 3, 16, 128, false}, {"W8A8s", "W8A8s", 8, 8, 0, true},
        {"W4A16g64s", "W4A16g64s", 4, 16, 64, true},   {"W1A16", "W1A16", 1, 16, 0, false},
        {"W16A4", "W16A4", 16, 4, 0, false},           {"W16A16", "W16A16", 16, 16, 0, false},
    };
    for (int64_t i = 0; i < SQ_COUNT(good); i++) {
        struct sq_scheme s, back;
        char buf[SQ_SCHEME_NAME];
        json_t *obj;
        assert_int_equal(sq_scheme_parse(&s, good[i].text), 0);
        assert_int_equal(s.wbits, good[i].w);
        assert_int_equal(s.abits, good[i].a);
        assert_int_equal(s.group, good[i].group);
        assert_int_equal(s.sym, good[i].sym);
        assert_true(s.rate == 1);
        assert_string_equal(sq_scheme_name(buf, &s), good[i].name);
        s.rate = 0.3;
        assert_int_equal(sq_scheme_to_json(&obj, &s), 0);
        assert_int_equal(sq_scheme_from_json(&back, obj), 0);
        assert_true(back.wbits == s.wbits && back.abits == s.abits && back.group == s.group &&
                    back.sym == s.sym && back.rate == s.rate);
        json_decref(obj);
        assert_true(sq_scheme_weights(&s).zero && sq_scheme_weights(&s).rate == 0.3);
        assert_true(!sq_scheme_acts(&s).zero && sq_scheme_acts(&s).bits == s.abits &&
                    !sq_scheme_acts(&s).group);
    }
}

static void test_bad(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "W",
                                      "W4",
                                      "A4",
                                      "W4A",
                                      "W0A16",
                                      "W9A16",
                                      "W15A16",
                                      "W4A1",
                                      "W4A9",
                                      "W4A0",
                                      "W1A16s",
                                      "W4A16g",
                                      "W4A16g0",
                                      "W4A16g1",
                                      "W4A16g-32",
                                      "W4A16g+32",
                                      "W4A16g32x",
                                      "W4A16sg32",
                                      " W4A16",
                                      "W4A16 ",
                                      "W04A16",
                                      "W4 A16",
                                      "W4A16ss",
                                      "W16A16g32",
                                      "W16A4s",
                                      "W4A16g99999999999999999999",
                                      "W99999999999A16",
                                      "W4A16g2000000",
                                      "4",
                                      "WA",
                                      "W-4A16"};
    for (int64_t i = 0; i < SQ_COUNT(bad); i++) {
        struct sq_scheme s;
        if (sq_scheme_parse(&s, bad[i]) != SQ_E_ARG)
            fail_msg("'%s' was taken", bad[i]);
        assert_true(strlen(sq_errmsg()) > 10);
    }
}

static void test_tensor(void **state)
{
    (void)state;
    struct sq_scheme s;
    assert_int_equal(sq_scheme_parse_tensor(&s, "W8g32"), 0);
    assert_true(s.wbits == 8 && s.group == 32 && s.sym && s.abits == 16);
    assert_int_equal(sq_scheme_parse_tensor(&s, "W16"), 0);
    assert_int_equal(sq_scheme_parse_tensor(&s, "W4A16"), SQ_E_ARG);
    assert_int_equal(sq_scheme_parse_tensor(&s, "W1"), SQ_E_ARG);
}

static void test_json(void **state)
{
    (void)state;
    static const char *const bad[] = {"{}",
                                      "[]",
                                      "3",
                                      "{\"wbits\":0}",
                                      "{\"wbits\":9}",
                                      "{\"wbits\":4,\"abits\":1}",
                                      "{\"wbits\":4,\"abits\":12}",
                                      "{\"wbits\":4,\"group\":-1}",
                                      "{\"wbits\":4,\"rate\":0}",
                                      "{\"wbits\":4,\"rate\":1.5}",
                                      "{\"wbits\":4,\"symmetric\":1}",
                                      "{\"wbits\":1,\"symmetric\":true}",
                                      "{\"wbits\":\"4\"}"};
    for (int64_t i = 0; i < SQ_COUNT(bad); i++) {
        struct sq_scheme s;
        json_t *obj = json_loads(bad[i], JSON_DECODE_ANY, NULL);
        if (sq_scheme_from_json(&s, obj) != SQ_E_FORMAT)
            fail_msg("%s was taken", bad[i]);
        json_decref(obj);
    }
    struct sq_scheme s;
    assert_int_equal(sq_scheme_from_json(&s, NULL), SQ_E_FORMAT);
    json_t *obj = json_loads("{\"wbits\":4,\"later\":7}", 0, NULL);
    assert_int_equal(sq_scheme_from_json(&s, obj), 0);
    assert_true(s.wbits == 4 && s.abits == 16 && s.rate == 1);
    json_decref(obj);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_good), cmocka_unit_test(test_bad),
                                       cmocka_unit_test(test_tensor), cmocka_unit_test(test_json)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
