#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "sq/calib.h"
#include "sq/hash.h"

/* A file with these bytes; its name, of the given ending, is in path. */
static void file_of(char path[64], const char *end, const char *bytes, size_t n)
{
    snprintf(path, 64, "/tmp/sq-calib-XXXXXX%s", end);
    const int fd = mkstemps(path, (int)strlen(end));
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), n);
    close(fd);
}

static int read_text(struct sq_text *t, const char *end, const char *bytes, size_t n)
{
    char path[64];
    file_of(path, end, bytes, n);
    const int rc = sq_text_read(t, path);
    unlink(path);
    return rc;
}

static void expect_text(const char *end, const char *bytes, const char *want)
{
    struct sq_text t = SQ_TEXT_INIT;
    if (read_text(&t, end, bytes, strlen(bytes)) < 0)
        fail_msg("%s", sq_errmsg());
    assert_int_equal(t.n, strlen(want));
    assert_memory_equal(t.p, want, t.n);
    sq_text_release(&t);
}

static void test_text(void **state)
{
    (void)state;
    struct sq_text t = SQ_TEXT_INIT;
    expect_text(".txt", "one\r\n\ntwo\n", "one\r\n\ntwo\n");
    expect_text(".txt", "{\"text\": \"a\\n\"}\n{\"id\": 3, \"text\": \"\\u00e9\"}\n\n  \n{\"text\": \"\"}", "a\n\n\n\xc3\xa9\n\n");
    expect_text(".jsonl", "\n{\"text\": \"a\"}\r\n", "a");
    expect_text(".txt", "{\"title\": \"a\"}\n", "{\"title\": \"a\"}\n"); /* no JSON lines: there is no text in it */
    expect_text(".txt", "{ not json\n", "{ not json\n");
    assert_int_equal(read_text(&t, ".txt", "first", 5), 0);
    assert_int_equal(read_text(&t, ".jsonl", "{\"text\": \"second\"}", 18), 0);
    assert_int_equal(t.n, 13);
    assert_memory_equal(t.p, "first\n\nsecond", 13);
    sq_text_release(&t);
}

static void test_bad_text(void **state)
{
    (void)state;
    const struct {
        const char *end, *bytes;
        int code;
        const char *says;
    } cases[] = {
        {".txt", "", SQ_E_FORMAT, "is empty"},
        {".txt", "abc\xff", SQ_E_VALUE, "not UTF-8: byte 0xff at 3"},
        {".jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n", SQ_E_FORMAT, "line 2 has no string 'text'"},
        {".jsonl", "{\"text\": \"a\"}\n{\"text\": 3}\n", SQ_E_FORMAT, "line 2 has no string 'text'"},
        {".jsonl", "{\"text\": \"a\"}\n\n{\"text\"", SQ_E_FORMAT, "line 3"},
        {".jsonl", "[1]\n", SQ_E_FORMAT, "line 1"},
        {".jsonl", "{\"text\": \"\xff\"}\n", SQ_E_FORMAT, "line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sq_text t = SQ_TEXT_INIT;
        assert_int_equal(read_text(&t, cases[i].end, cases[i].bytes, strlen(cases[i].bytes)), cases[i].code);
        if (!strstr(sq_errmsg(), cases[i].says) || !strstr(sq_errmsg(), "'/tmp/sq-calib-"))
            fail_msg("'%s' does not say '%s'", sq_errmsg(), cases[i].says);
        sq_text_release(&t);
    }
    struct sq_text t = SQ_TEXT_INIT;
    assert_int_equal(sq_text_read(&t, "/nonexistent"), SQ_E_IO);
    assert_int_equal(sq_text_read(&t, "/"), SQ_E_IO);
}

static void test_ids(void **state)
{
    (void)state;
    struct sq_ids ids = SQ_IDS_INIT;
    char path[64];
    file_of(path, "", "[1, 2,3]\n\t40 2147483647\r\n", 25);
    assert_int_equal(sq_ids_read(&ids, path), 0);
    assert_int_equal(ids.n, 5);
    assert_int_equal(ids.v[3], 40);
    assert_int_equal(ids.v[4], 2147483647);
    assert_int_equal(sq_ids_check(&ids, 2147483647), SQ_E_VALUE);
    assert_non_null(strstr(sq_errmsg(), "token 4"));
    assert_int_equal(sq_ids_check(&ids, 2147483648), 0);
    unlink(path);
    static const char *const bad[] = {"1 -2", "1.5", "2147483648", "99999999999999999999999", "x", "1\n2\n\"3\""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        file_of(path, "", bad[i], strlen(bad[i]));
        assert_int_equal(sq_ids_read(&ids, path), SQ_E_FORMAT);
        unlink(path);
    }
    assert_non_null(strstr(sq_errmsg(), "line 3"));
    sq_ids_release(&ids);
}

static void counting(struct sq_ids *ids, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        assert_int_equal(sq_ids_push(ids, i), 0);
}

static void test_draw(void **state)
{
    (void)state;
    struct sq_ids ids = SQ_IDS_INIT;
    struct sq_samples a, b;
    struct sq_draw how = {.samples = 40, .heldout = -1, .length = 16, .seed = 5};
    counting(&ids, 1000);
    assert_int_equal(sq_samples_draw(&a, &ids, &how), 0);
    assert_int_equal(a.heldout, 3);
    assert_int_equal(a.samples, 43);
    int64_t top = 0, low = 1000, distinct = 0;
    for (int64_t s = 0; s < a.samples; s++) {
        const int32_t *id = a.id + s * a.length;
        for (int64_t i = 1; i < a.length; i++)
            assert_int_equal(id[i], id[0] + i);
        assert_true(id[0] >= 0 && id[15] < 1000);
        distinct += s == 0 || id[0] != a.id[0];
        if (s < 40)
            top = SQ_MAX(top, id[15]);
        else
            low = SQ_MIN(low, id[0]);
    }
    assert_true(top < low); /* nothing held out was learned from */
    assert_true(top > 700 && distinct > 30);
    assert_int_equal(sq_samples_draw(&b, &ids, &how), 0);
    assert_memory_equal(a.id, b.id, (size_t)(43 * 16) * sizeof *a.id);
    sq_samples_release(&b);
    how.seed = 6;
    assert_int_equal(sq_samples_draw(&b, &ids, &how), 0);
    assert_memory_not_equal(a.id, b.id, (size_t)(43 * 16) * sizeof *a.id);
    sq_samples_release(&b);
    sq_samples_release(&a);
    /* as short as it can be */
    ids.n = 32;
    assert_int_equal(sq_samples_draw(&a, &ids, &how), 0);
    assert_int_equal(a.id[0], 0);
    assert_int_equal(a.id[42 * 16], 16);
    sq_samples_release(&a);
    ids.n = 31;
    assert_int_equal(sq_samples_draw(&a, &ids, &how), SQ_E_ARG);
    assert_string_equal(sq_errmsg(), "the text has 31 tokens, a sample and a held-out sample together 32 (--heldout 0 for none)");
    how.heldout = 0;
    assert_int_equal(sq_samples_draw(&a, &ids, &how), 0);
    sq_samples_release(&a);
    ids.n = 15;
    assert_int_equal(sq_samples_draw(&a, &ids, &how), SQ_E_ARG);
    assert_string_equal(sq_errmsg(), "the text has 15 tokens, a sample 16");
    how.samples = 0;
    assert_int_equal(sq_samples_draw(&a, &ids, &how), SQ_E_ARG);
    how.samples = INT64_MAX;
    how.length = 8;
    assert_int_equal(sq_samples_draw(&a, &ids, &how), SQ_E_ARG);
    assert_null(a.id);
    sq_ids_release(&ids);
}

static void test_head(void **state)
{
    (void)state;
    const struct sq_samples s = {NULL, 3, 1, 8};
    const struct sq_ids from = {(int32_t[]){1, 2, 3}, 3, 3};
    char want[256], digest[SQ_HASH_TEXT];
    json_t *head;
    sq_hash_text(digest, sq_hash_of((const int32_t[]){1, 2, 3}, 12));
    snprintf(want, sizeof want,
             "{\"record\":\"tokens\",\"samples\":3,\"length\":8,\"heldout\":1,\"dtype\":\"i32\",\"source\":\"%s\",\"bos\":-1,"
             "\"seed\":7,\"bytes\":96}", digest);
    assert_int_equal(sq_samples_head(&head, &s, &from, -1, 7), 0);
    char *text = json_dumps(head, JSON_COMPACT);
    assert_string_equal(text, want);
    free(text);
    json_decref(head);
}

static void test_windows(void **state)
{
    (void)state;
    struct sq_ids ids = SQ_IDS_INIT;
    int64_t n;
    counting(&ids, 100);
    assert_int_equal(sq_windows_count(&n, &ids, 30, 0), 0);
    assert_int_equal(n, 3);
    assert_int_equal(sq_windows_count(&n, &ids, 30, 2), 0);
    assert_int_equal(n, 2);
    assert_int_equal(sq_windows_count(&n, &ids, 100, 5), 0);
    assert_int_equal(n, 1);
    assert_int_equal(sq_windows_count(&n, &ids, 101, 0), SQ_E_ARG);
    assert_string_equal(sq_errmsg(), "the text has 100 tokens, a window 101");
    sq_ids_release(&ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text), cmocka_unit_test(test_bad_text), cmocka_unit_test(test_ids),
        cmocka_unit_test(test_draw), cmocka_unit_test(test_head),     cmocka_unit_test(test_windows),
    };
    return cmocka_run_group_tests_name("calib", tests, NULL, NULL);
}
