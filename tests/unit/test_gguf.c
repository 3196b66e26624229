/* GGUF: values of every tensor type against the gguf package's, keys, files that lie */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sq/gguf.h"
#include "sq/safetensors.h"

#include "../gguf_bytes.h"

static void every_type_gives_the_reference_values(void **state)
{
    (void)state;
    struct sq_safetensors *s = NULL;
    int64_t seen = 0;
    assert_int_equal(sq_safetensors_open(&s, "tests/golden/gguf_blocks.safetensors"), 0);
    for (int type = 1; type < 64; type++) {
        char name[64];
        int64_t elements;
        size_t bytes;
        if (sq_gguf_type_size(&elements, &bytes, type) < 0)
            continue;
        snprintf(name, sizeof name, "%s.blocks", sq_gguf_type_name(type));
        const int64_t b = sq_safetensors_find(s, name);
        snprintf(name, sizeof name, "%s.values", sq_gguf_type_name(type));
        const int64_t v = sq_safetensors_find(s, name);
        if (b < 0 || v < 0)
            fail_msg("no golden for %s", name);
        const struct sq_tensor *blocks = sq_safetensors_at(s, b);
        struct sq_tensor values = SQ_TENSOR_INIT, got = SQ_TENSOR_INIT;
        assert_int_equal(sq_safetensors_get(&values, s, v), 0);
        const int64_t n = sq_tensor_count(&values);
        assert_int_equal((size_t)(n / elements) * bytes, sq_tensor_bytes(blocks));
        assert_int_equal(sq_tensor_new(&got, "got", SQ_F32, 1, &n), 0);
        sq_gguf_dequant(got.owned, type, blocks->data, n);
        for (int64_t i = 0; i < n; i++)
            if (((const float *)got.data)[i] != ((const float *)values.data)[i])
                fail_msg("%s: element %d is %g, not %g", name, (int)i,
                         (double)((const float *)got.data)[i], (double)((const float *)values.data)[i]);
        sq_tensor_release(&got);
        sq_tensor_release(&values);
        seen++;
    }
    assert_int_equal(seen, 14);
    sq_safetensors_close(&s);
    assert_string_equal(sq_gguf_type_name(23), "IQ4_XS");
    assert_null(sq_gguf_type_name(5));
    assert_null(sq_gguf_type_name(-1));
    int64_t e;
    size_t n;
    assert_int_equal(sq_gguf_type_size(&e, &n, 19), SQ_E_UNSUP);
    assert_non_null(strstr(sq_errmsg(), "IQ1_S"));
}

/* a file with one of each value kind and two tensors */
static void good_file(struct bytes *b)
{
    put_head(b, 3, 2, 7);
    put_text(b, "general.architecture", "test");
    put_u32(b, "test.count", 7);
    put_f32(b, "test.eps", 1e-5f);
    put_str(b, "test.flag"), put_int(b, 7, 4), put_int(b, 1, 1);
    put_str(b, "test.big"), put_int(b, 10, 4), put_int(b, UINT64_MAX, 8);
    put_str(b, "test.neg"), put_int(b, 5, 4), put_int(b, (uint32_t)-3, 4);
    put_str(b, "tok.list"), put_int(b, 9, 4), put_int(b, 8, 4), put_int(b, 2, 8), put_str(b, "a"),
        put_str(b, "\xc3\xa4");
    put_tensor(b, "b", 2, 3, 0, 0);
    put_tensor(b, "a", 0, 32, 8, 32);
    put_pad(b, 32);
    for (int i = 0; i < 6; i++) {
        const float f = (float)i;
        put(b, &f, 4);
    }
    put_pad(b, 32);
    for (int i = 0; i < 34; i++)
        put_int(b, 0x3c, 1);
}

static void keys_and_tensors_are_found(void **state)
{
    (void)state;
    static struct bytes b;
    struct sq_gguf *g = NULL;
    int64_t x;
    double r;
    bool flag;
    const char *s;
    size_t n;
    json_t *j = NULL;
    float y[32];

    good_file(&b);
    assert_int_equal(sq_gguf_parse(&g, b.v, b.n, "test"), 0);
    assert_int_equal(sq_gguf_int(&x, g, "test.count", 0, 9), 0);
    assert_int_equal(x, 7);
    assert_int_equal(sq_gguf_int(&x, g, "test.count", 0, 6), SQ_E_FORMAT);
    assert_int_equal(sq_gguf_int(&x, g, "test.neg", -9, 9), 0);
    assert_int_equal(x, -3);
    assert_int_equal(sq_gguf_int(&x, g, "test.big", INT64_MIN, INT64_MAX), SQ_E_FORMAT);
    assert_int_equal(sq_gguf_int(&x, g, "tok.list", 0, 9), SQ_E_FORMAT);
    assert_int_equal(sq_gguf_int(&x, g, "test.none", 0, 9), SQ_E_FORMAT);
    assert_non_null(strstr(sq_errmsg(), "missing"));
    assert_int_equal(sq_gguf_real(&r, g, "test.eps"), 0);
    assert_true((float)r == 1e-5f);
    assert_int_equal(sq_gguf_bool(&flag, g, "test.flag"), 0);
    assert_true(flag);
    assert_int_equal(sq_gguf_str(&s, &n, g, "general.architecture"), 0);
    assert_int_equal(n, 4);
    assert_true(sq_gguf_is(g, "general.architecture", "test") &&
                !sq_gguf_is(g, "general.architecture", "tes"));
    assert_int_equal(sq_gguf_json(&j, g, "tok."), 0);
    assert_int_equal(json_object_size(j), 1);
    assert_string_equal(json_string_value(json_array_get(json_object_get(j, "tok.list"), 1)),
                        "\xc3\xa4");
    json_decref(j);
    assert_int_equal(sq_gguf_json(&j, g, "test."), SQ_E_FORMAT); /* 2^64 - 1 */
    assert_int_equal(sq_gguf_tensors(g), 2);
    assert_int_equal(sq_gguf_find(g, "c"), -1);
    const struct sq_gguf_tensor *t = sq_gguf_tensor(g, sq_gguf_find(g, "b"));
    assert_true(t->ndim == 2 && t->ne[0] == 3 && t->ne[1] == 2 && t->size == 24);
    t = sq_gguf_tensor(g, sq_gguf_find(g, "a"));
    sq_gguf_dequant(y, t->type, t->data, 32);
    assert_true(y[0] == 60 * sq_f16_to_f32(0x3c3c));
    sq_gguf_close(&g);
    sq_gguf_close(&g);
}

/* Any cut of a good file is refused, whatever it cuts. */
static void cut_files_are_refused(void **state)
{
    (void)state;
    static struct bytes b;
    good_file(&b);
    for (size_t n = 0; n < b.n; n++) {
        struct sq_gguf *g = NULL;
        uint8_t *exact = malloc(n ? n : 1);
        assert_non_null(exact);
        memcpy(exact, b.v, n);
        assert_int_equal(sq_gguf_parse(&g, exact, n, "test"), SQ_E_FORMAT);
        assert_null(g);
        free(exact);
    }
}

static struct bytes lie;

static void lie_magic(void)
{
    put_head(&lie, 3, 0, 0), lie.v[0] = 'X';
}
static void lie_version(void)
{
    put_head(&lie, 4, 0, 0);
}
static void lie_endian(void)
{
    put_head(&lie, 0x03000000, 0, 0);
}
static void lie_keys(void)
{
    put_head(&lie, 3, 0, UINT64_MAX);
}
static void lie_tensors(void)
{
    put_head(&lie, 3, UINT64_MAX / 2, 0);
}
static void lie_twice(void)
{
    put_head(&lie, 3, 0, 2), put_u32(&lie, "k", 1), put_u32(&lie, "k", 2);
}
static void lie_string(void)
{
    put_head(&lie, 3, 0, 1), put_str(&lie, "k"), put_int(&lie, 8, 4), put_int(&lie, UINT64_MAX - 4, 8);
}
static void lie_array(void)
{
    put_head(&lie, 3, 0, 1), put_str(&lie, "k"), put_int(&lie, 9, 4), put_int(&lie, 12, 4),
        put_int(&lie, 1ull << 61, 8);
    put_int(&lie, 0, 8);
}
static void lie_nested(void)
{
    put_head(&lie, 3, 0, 1), put_str(&lie, "k"), put_int(&lie, 9, 4), put_int(&lie, 9, 4),
        put_int(&lie, 1, 8);
}
static void lie_kind(void)
{
    put_head(&lie, 3, 0, 1), put_str(&lie, "k"), put_int(&lie, 13, 4), put_int(&lie, 0, 8);
}
static void lie_split(void)
{
    put_head(&lie, 3, 0, 1), put_u32(&lie, "split.count", 3);
}
static void lie_align(void)
{
    put_head(&lie, 3, 0, 1), put_u32(&lie, "general.alignment", 48);
}
static void one(uint64_t rows, uint64_t cols, uint32_t type, uint64_t offset)
{
    put_head(&lie, 3, 1, 0), put_tensor(&lie, "t", rows, cols, type, offset), put_pad(&lie, 32);
    for (int i = 0; i < 8; i++)
        put_int(&lie, 0, 8);
}
static void lie_dims(void)
{
    one(1ull << 33, 1ull << 33, 0, 0);
}
static void lie_zero(void)
{
    one(2, 0, 0, 0);
}
static void lie_type(void)
{
    one(2, 2, 77, 0);
}
static void lie_type_big(void)
{
    one(2, 2, 0xfffffff0, 0);
}
static void lie_old(void)
{
    one(2, 256, 18, 0);
}
static void lie_blocks(void)
{
    one(1, 48, 8, 0);
}
static void lie_offset(void)
{
    one(1, 4, 0, 20);
}
static void lie_far(void)
{
    one(1, 4, 0, 1ull << 62);
}
static void lie_size(void)
{
    one(1, 17, 0, 0);
}
static void lie_overlap(void)
{
    put_head(&lie, 3, 2, 0), put_tensor(&lie, "t", 1, 9, 0, 0), put_tensor(&lie, "u", 1, 4, 0, 32),
        put_pad(&lie, 32);
    for (int i = 0; i < 8; i++)
        put_int(&lie, 0, 8);
}
static void lie_same_name(void)
{
    put_head(&lie, 3, 2, 0), put_tensor(&lie, "t", 1, 8, 0, 0), put_tensor(&lie, "t", 1, 8, 0, 32),
        put_pad(&lie, 32);
    for (int i = 0; i < 8; i++)
        put_int(&lie, 0, 8);
}

static void files_that_lie_are_refused(void **state)
{
    (void)state;
    static const struct {
        void (*make)(void);
        const char *text;
        int rc;
    } cases[] = {
        {lie_magic, "GGUF", SQ_E_FORMAT},
        {lie_version, "version 4", SQ_E_UNSUP},
        {lie_endian, "big-endian", SQ_E_UNSUP},
        {lie_keys, "keys cannot be", SQ_E_FORMAT},
        {lie_tensors, "tensors cannot be", SQ_E_FORMAT},
        {lie_twice, "key 'k' is there twice", SQ_E_FORMAT},
        {lie_string, "key 'k'", SQ_E_FORMAT},
        {lie_array, "key 'k'", SQ_E_FORMAT},
        {lie_nested, "type 9", SQ_E_FORMAT},
        {lie_kind, "type 13", SQ_E_FORMAT},
        {lie_split, "3 parts", SQ_E_UNSUP},
        {lie_align, "48", SQ_E_FORMAT},
        {lie_dims, "overflows", SQ_E_FORMAT},
        {lie_zero, "dimension 0", SQ_E_FORMAT},
        {lie_type, "tensor 't': tensor type 77", SQ_E_UNSUP},
        {lie_type_big, "not known", SQ_E_UNSUP},
        {lie_old, "IQ3_XXS", SQ_E_UNSUP},
        {lie_blocks, "48 columns", SQ_E_FORMAT},
        {lie_offset, "offset 20", SQ_E_FORMAT},
        {lie_far, "ends at byte", SQ_E_FORMAT},
        {lie_size, "ends at byte", SQ_E_FORMAT},
        {lie_overlap, "tensor 'u' overlaps", SQ_E_FORMAT},
        {lie_same_name, "tensor 't' is there twice", SQ_E_FORMAT},
    };
    for (int i = 0; i < SQ_COUNT(cases); i++) {
        struct sq_gguf *g = NULL;
        cases[i].make();
        const int rc = sq_gguf_parse(&g, lie.v, lie.n, "test");
        if (rc != cases[i].rc || g || !strstr(sq_errmsg(), cases[i].text))
            fail_msg("case %d: %d %s, not '%s'", i, rc, sq_errmsg(), cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_gives_the_reference_values),
        cmocka_unit_test(keys_and_tensors_are_found),
        cmocka_unit_test(cut_files_are_refused),
        cmocka_unit_test(files_that_lie_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
