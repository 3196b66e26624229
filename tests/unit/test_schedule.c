/* windows of every form of --schedule against the golden list and the numbers of docs/method.md 5 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "sq/json.h"
#include "sq/schedule.h"

#define GOLDEN "tests/oracle/goldens/schedule.json"

static char text[1 << 14];

/* "0-0 0-1 ...": one string, so that a difference shows the whole list */
static const char *windows_of(const struct sq_schedule *s)
{
    int n = 0;
    text[0] = '\0';
    for (int64_t i = 0; i < s->n; i++)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "%s%" PRId64 "-%" PRId64, i ? " " : "", s->window[i].first,
                      s->window[i].last);
    return text;
}

static const char *parsed(const char *form, int64_t layers)
{
    struct sq_schedule s;
    const int rc = sq_schedule_parse(&s, form, layers);
    if (rc < 0)
        return sq_errmsg();
    windows_of(&s);
    sq_schedule_release(&s);
    return text;
}

static void test_golden(void **state)
{
    (void)state;
    json_t *rows = NULL;
    if (access(GOLDEN, R_OK) != 0) {
        print_message("skipped: %s is absent\n", GOLDEN);
        skip();
    }
    assert_int_equal(sq_json_load(&rows, GOLDEN), 0);
    assert_true(json_array_size(rows) > 20);
    size_t i;
    json_t *row, *name;
    json_array_foreach(rows, i, row) {
        int64_t layers, v[4];
        const char *key[4] = {"shallow", "deep", "size", "step"};
        assert_int_equal(sq_json_int(&layers, row, "L", 0, 100), 0);
        for (int k = 0; k < 4; k++)
            assert_int_equal(sq_json_int(&v[k], row, key[k], 0, 100), 0);
        char form[128];
        snprintf(form, sizeof(form), "slider:%d,%d,%d,%d", (int)v[0], (int)v[1], (int)v[2], (int)v[3]);
        struct sq_schedule s;
        const int rc = sq_schedule_parse(&s, form, layers);
        if (json_is_true(json_object_get(row, "error"))) {
            assert_int_equal(rc, SQ_E_ARG);
            continue;
        }
        assert_int_equal(rc, 0);
        char want[1 << 12] = "";
        size_t k;
        json_array_foreach(json_object_get(row, "windows"), k, name) {
            strcat(want, k ? " " : "");
            strcat(want, json_string_value(name));
        }
        assert_string_equal(windows_of(&s), want);
        sq_schedule_release(&s);
    }
    json_decref(rows);
}

static void test_forms(void **state)
{
    (void)state;
    struct sq_schedule s;
    assert_int_equal(sq_schedule_parse(&s, "slider", 32), 0);
    assert_int_equal(s.n, 33); /* docs/method.md 5: 4 + 25 + 4 */
    sq_schedule_release(&s);
    assert_string_equal(parsed("slider:2,2", 5), "0-0 0-1 1-2 2-3 3-4 4-4");
    assert_string_equal(parsed("layer", 3), "0-0 1-1 2-2");
    assert_string_equal(parsed("fixed:2,1", 4), "0-1 1-2 2-3");
    assert_string_equal(parsed("blocks:2", 5), "0-1 2-3 4-4");
    assert_string_equal(parsed("blocks:9", 5), "0-4");
    assert_string_equal(parsed("0-0,0-1,0-2,2-3,3", 4), "0-0 0-1 0-2 2-3 3-3");
    assert_string_equal(parsed("0-1,0-1,1-2", 3), "0-1 1-2");
    /* the fixed window 10-11 would begin behind the contracting 9-12 */
    assert_string_equal(parsed("slider:4,4,2,2", 13), "0-0 0-1 0-2 0-3 2-3 4-5 6-7 8-9 9-12 10-12 11-12 12-12");
}

static void test_errors(void **state)
{
    (void)state;
    assert_string_equal(parsed("slider", 6),
                        "6 layers are fewer than the 4 shallow and 4 deep ones of the schedule; try --schedule "
                        "slider:2,3,2,1 or --schedule fixed:2,1");
    assert_string_equal(parsed("0-1,3", 4), "no window covers layer 2");
    assert_string_equal(parsed("0-1", 4), "no window covers layer 2");
    assert_string_equal(parsed("1-3", 4), "no window covers layer 0");
    assert_string_equal(parsed("0-4", 4), "window 0-4 does not fit; the last of 4 layers is 3");
    assert_string_equal(parsed("1-0", 4), "window 1-0 ends before it begins");
    assert_non_null(strstr(parsed("0-3,0-1", 4), "goes back"));
    assert_non_null(strstr(parsed("fixed:2,3", 4), "1 <= step <= size"));
    assert_non_null(strstr(parsed("blocks:0", 4), "1 <= step <= size"));
    const char *bad[] = {"", ",", "0-", "0,,1", "0-1,", "slider:1,2,3,4,5", "slider:x", "slider:-1", "fixed",
                         "fixed:2", "fixed:2,1,1", "blocks", "blocks:2,2", "layer:1", "layers", "0-99999999999", " 0", "0 "};
    for (int i = 0; i < SQ_COUNT(bad); i++) {
        struct sq_schedule s;
        assert_int_equal(sq_schedule_parse(&s, bad[i], 4), SQ_E_ARG);
        assert_null(s.window);
    }
    struct sq_schedule s;
    assert_int_equal(sq_schedule_parse(&s, "layer", 0), SQ_E_ARG);
    assert_int_equal(sq_schedule_parse(&s, "layer", INT64_MAX), SQ_E_ARG);
}

/* Whatever the numbers, a schedule covers every layer and never moves back. */
static void test_invariants(void **state)
{
    (void)state;
    int64_t tried = 0;
    for (int layers = 1; layers <= 14; layers++)
        for (int ends = 0; ends < 36; ends++)
            for (int size = 1; size <= 5; size++)
                for (int step = 1; step <= size; step++) {
                    char form[64];
                    snprintf(form, sizeof(form), "slider:%d,%d,%d,%d", ends / 6, ends % 6, size, step);
                    struct sq_schedule s;
                    if (sq_schedule_parse(&s, form, layers) < 0) {
                        assert_true(layers < ends / 6 + ends % 6);
                        continue;
                    }
                    tried++;
                    int64_t next = 0;
                    for (int64_t i = 0; i < s.n; i++) {
                        assert_true(s.window[i].first <= next && s.window[i].first <= s.window[i].last);
                        assert_true(s.window[i].last < layers);
                        assert_true(i == 0 || s.window[i].first >= s.window[i - 1].first);
                        next = SQ_MAX(next, s.window[i].last + 1);
                    }
                    assert_int_equal(next, layers);
                    sq_schedule_release(&s);
                }
    assert_true(tried > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_invariants),
    };
    return cmocka_run_group_tests_name("schedule", tests, NULL, NULL);
}
