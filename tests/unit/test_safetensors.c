/* safetensors: goldens read back, and files that lie */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "sq/safetensors.h"

#include "../golden.h"

/* header text and n bytes of data as a file in memory; len overrides the length field when not 0 */
static int parse(struct sq_safetensors **s, const char *head, size_t n, uint64_t len)
{
    static _Alignas(16) uint8_t file[4096];
    const uint64_t text = strlen(head);
    len = len ? len : text;
    memcpy(file, &len, 8);
    memcpy(file + 8, head, text);
    memset(file + 8 + text, 0, n);
    return sq_safetensors_parse(s, file, 8 + text + n, "test");
}

#define T(name, dtype, shape, begin, end)                                                               \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static void files_that_lie_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *head;
        size_t n;
        uint64_t len;
        const char *text;
        int rc;
    } cases[] = {
        {"{" T("a", "F32", "[2]", 0, 8) "}", 4, 0, "tensor 'a': it ends at byte 8 of 4", SQ_E_FORMAT},
        {"{" T("a", "F32", "[2]", 0, 8) "}", 9, 0, "1 bytes after the last tensor", SQ_E_FORMAT},
        {"{" T("a", "F32", "[3]", 0, 8) "}", 8, 0, "shape and dtype need 12 bytes", SQ_E_FORMAT},
        {"{" T("a", "F32", "[2]", 0, 8) "," T("b", "F16", "[2]", 6, 10) "}", 10, 0, "overlaps",
         SQ_E_FORMAT},
        {"{" T("a", "F32", "[2]", 0, 8) "," T("b", "U8", "[1]", 0, 1) "}", 8, 0, "overlaps",
         SQ_E_FORMAT},
        {"{" T("a", "F32", "[2]", 0, 8) "," T("b", "U8", "[1]", 9, 10) "}", 10, 0, "belong to no tensor",
         SQ_E_FORMAT},
        {"{" T("a", "F32", "[2]", 8, 0) "}", 8, 0, "data_offsets", SQ_E_FORMAT},
        {"{" T("a", "F32", "[2]", -8, 0) "}", 8, 0, "whole numbers", SQ_E_FORMAT},
        {"{" T("a", "F32", "[-2]", 0, 8) "}", 8, 0, "whole numbers", SQ_E_FORMAT},
        {"{" T("a", "F32", "[2.0]", 0, 8) "}", 8, 0, "whole numbers", SQ_E_FORMAT},
        {"{" T("a", "F32", "[9223372036854775808]", 0, 8) "}", 8, 0, "whole numbers", SQ_E_FORMAT},
        {"{" T("a", "F32", "[4611686018427387904]", 0, 8) "}", 8, 0, "overflows", SQ_E_FORMAT},
        {"{" T("a", "U8", "[4294967296,4294967296]", 0, 8) "}", 8, 0, "overflows", SQ_E_FORMAT},
        {"{" T("a", "U8", "[1,1,1,1,1]", 0, 1) "}", 1, 0, "5 numbers", SQ_E_FORMAT},
        {"{" T("a", "F8_E4M3", "[2]", 0, 2) "}", 2, 0, "tensor 'a': dtype 'F8_E4M3'", SQ_E_UNSUP},
        {"{" T("a", "U8", "[1]", 0, 1) "," T("a", "U8", "[1]", 1, 2) "}", 2, 0, "duplicate",
         SQ_E_FORMAT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, 0, "data_offsets", SQ_E_FORMAT},
        {"{\"a\":[1]}", 1, 0, "object", SQ_E_FORMAT},
        {"[]", 0, 0, "object", SQ_E_FORMAT},
        {"{", 0, 0, "line", SQ_E_FORMAT},
        {"{}", 0, 3, "does not fit", SQ_E_FORMAT},
        {"{}", 0, UINT64_MAX, "does not fit", SQ_E_FORMAT},
    };
    for (int i = 0; i < SQ_COUNT(cases); i++) {
        struct sq_safetensors *s = NULL;
        const int rc = parse(&s, cases[i].head, cases[i].n, cases[i].len);
        if (rc != cases[i].rc || s || !strstr(sq_errmsg(), cases[i].text) ||
            strncmp(sq_errmsg(), "'test': ", 8) != 0)
            fail_msg("%s: %d %s", cases[i].head, rc, sq_errmsg());
    }
    struct sq_safetensors *s = NULL;
    assert_int_equal(sq_safetensors_parse(&s, "1234567", 7, "test"), SQ_E_FORMAT);
    char *deep = NULL;
    assert_int_equal(sq_alloc(&deep, 3001), 0);
    memset(deep, '[', 3000);
    assert_int_equal(parse(&s, deep, 0, 0), SQ_E_FORMAT);
    sq_free(deep);
}

static void tensors_are_found_and_aligned(void **state)
{
    (void)state;
    struct sq_safetensors *s = NULL;
    struct sq_tensor t = SQ_TENSOR_INIT;
    assert_int_equal(
        parse(&s,
              "{\"__metadata__\":{\"format\":\"pt\"}," T("z", "U8", "[3]", 0, 3) "," T(
                  "a", "F32", "[1,2]", 3, 11) "," T("none", "F32", "[0,7]", 11,
                                                    11) "," T("one", "I64", "[]", 11, 19) "}   ",
              19, 0),
        0);
    assert_int_equal(sq_safetensors_count(s), 4);
    assert_string_equal(sq_safetensors_at(s, 0)->name, "a");
    assert_int_equal(sq_safetensors_find(s, "b"), -1);
    assert_int_equal(sq_safetensors_find(s, "z"), 3);
    for (int64_t i = 0; i < 4; i++) {
        assert_int_equal(sq_safetensors_get(&t, s, i), 0);
        assert_int_equal((uintptr_t)t.data % sq_dtype_size(t.dtype), 0);
        assert_string_equal(t.name, sq_safetensors_at(s, i)->name);
        sq_safetensors_drop(s, i);
    }
    assert_int_equal(sq_tensor_count(&t), 3);
    sq_tensor_release(&t);
    sq_safetensors_close(&s);
    sq_safetensors_close(&s);
    assert_int_equal(parse(&s, "{}", 0, 0), 0);
    assert_int_equal(sq_safetensors_find(s, ""), -1);
    sq_safetensors_close(&s);
}

static void goldens_are_read(void **state)
{
    (void)state;
    struct golden g;
    struct sq_safetensors *s = NULL;
    struct sq_tensor t = SQ_TENSOR_INIT;
    golden_open(&g, "layer_llama_w4a16g32");
    assert_int_equal(sq_safetensors_open(&s, "tests/oracle/goldens/layer_llama_w4a16g32.safetensors"),
                     0);
    assert_true(sq_safetensors_count(s) > 40);
    for (int64_t i = 0; i < sq_safetensors_count(s); i++) {
        const char *dtype;
        int64_t n;
        assert_int_equal(sq_safetensors_get(&t, s, i), 0);
        const void *raw = golden_raw(&g, t.name, &dtype, &n, NULL);
        assert_int_equal(n, sq_tensor_count(&t));
        assert_memory_equal(raw, t.data, sq_tensor_bytes(&t));
        sq_safetensors_drop(s, i);
        assert_memory_equal(raw, t.data, sq_tensor_bytes(&t)); /* a dropped page comes back */
    }
    sq_tensor_release(&t);
    sq_safetensors_close(&s);
    golden_close(&g);
}

static void missing_and_odd_files_are_named(void **state)
{
    (void)state;
    struct sq_safetensors *s = NULL;
    assert_int_equal(sq_safetensors_open(&s, "tests/none.safetensors"), SQ_E_IO);
    assert_non_null(strstr(sq_errmsg(), "tests/none.safetensors"));
    assert_int_equal(sq_safetensors_open(&s, "tests"), SQ_E_IO);
    assert_int_equal(sq_safetensors_open(&s, "/dev/null"), SQ_E_IO);
    assert_null(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_that_lie_are_refused),
        cmocka_unit_test(tensors_are_found_and_aligned),
        cmocka_unit_test(goldens_are_read),
        cmocka_unit_test(missing_and_odd_files_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
