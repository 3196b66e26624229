/* block codecs: which type holds which codes, byte for byte as when gguf.quants.dequantize was run over them
 * (tests/long/pack_blocks.py), and what is said when none does */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../gen/pack_grid.h"
#include "sq/hash.h"

static struct pack_grid grid;

/* the smallest exact type for a width, zero points and group, as in the table of the formats */
static void the_smallest_exact_type_is_chosen(void **state)
{
    (void)state;
    static const struct {
        int bits, zlo, zhi;
        int64_t group;
        enum sq_pack_type want;
    } rows[] = {
        {1, 0, 1, 0, SQ_PACK_Q2_K},   {2, 0, 3, 0, SQ_PACK_Q2_K},    {2, 0, 3, 256, SQ_PACK_Q2_K},
        {2, 0, 3, 128, SQ_PACK_Q4_0}, {2, 0, 3, 32, SQ_PACK_Q4_0},   {2, 2, 2, 0, SQ_PACK_Q2_K},
        {3, 0, 7, 0, SQ_PACK_Q4_0},   {3, 4, 4, 0, SQ_PACK_Q3_K},    {3, 3, 4, 0, SQ_PACK_Q3_K},
        {3, 3, 4, 256, SQ_PACK_Q3_K}, {3, 2, 4, 0, SQ_PACK_Q4_0},    {3, 0, 7, 64, SQ_PACK_Q4_0},
        {3, 4, 4, 64, SQ_PACK_Q4_0},  {4, 0, 15, 0, SQ_PACK_Q4_K},   {4, 8, 8, 0, SQ_PACK_Q4_0},
        {4, 7, 8, 0, SQ_PACK_Q4_0},   {4, 7, 8, 32, SQ_PACK_Q4_0},   {4, 0, 15, 32, SQ_PACK_Q5_0},
        {4, 0, 15, 128, SQ_PACK_Q5_0}, {4, 0, 15, 256, SQ_PACK_Q4_K}, {5, 0, 31, 0, SQ_PACK_Q5_K},
        {5, 15, 16, 64, SQ_PACK_Q5_0}, {5, 0, 31, 64, SQ_PACK_Q8_0}, {6, 31, 32, 0, SQ_PACK_Q6_K},
        {6, 0, 63, 0, SQ_PACK_Q8_0},  {7, 0, 127, 32, SQ_PACK_Q8_0}, {8, 128, 128, 0, SQ_PACK_Q8_0},
        {8, 127, 128, 32, SQ_PACK_Q8_0},
    };
    for (int64_t i = 0; i < SQ_COUNT(rows); i++) {
        enum sq_pack_type t;
        enum sq_pack_loss loss;
        pack_grid_make(&grid, rows[i].bits, rows[i].zlo, rows[i].zhi, rows[i].group);
        assert_int_equal(sq_pack_choose(&t, &loss, &grid.g, SQ_PACK_AUTO, false), 0);
        assert_string_equal(sq_pack_info(t)->name, sq_pack_info(rows[i].want)->name);
        assert_int_equal(loss, SQ_PACK_EXACT);
    }
}

static void refused(const char *reason, enum sq_pack_type want)
{
    enum sq_pack_type t;
    enum sq_pack_loss loss;
    assert_int_equal(sq_pack_choose(&t, &loss, &grid.g, want, false), SQ_E_UNSUP);
    assert_string_equal(sq_errmsg(), reason);
}

static void what_no_type_holds_is_refused_with_its_reason(void **state)
{
    (void)state;
    pack_grid_make(&grid, 8, 0, 255, 0);
    refused("tensor 'w': codes minus zero points reach -255..255, more than q8_0 holds exactly; --lossy "
            "writes the nearest", SQ_PACK_AUTO);
    pack_grid_make(&grid, 4, 0, 15, 32);
    refused("tensor 'w': codes minus zero points reach -15..15, more than q4_0 holds exactly; --lossy writes the "
            "nearest", SQ_PACK_Q4_0);
    pack_grid_make(&grid, 2, 0, 3, 16);
    refused("tensor 'w' has groups of 16 columns, not a multiple of the 32 of q8_0; --lossy writes the nearest",
            SQ_PACK_AUTO);
    pack_grid_make(&grid, 2, 0, 3, 0);
    grid.g.cols = 48;
    refused("tensor 'w' has 48 columns, not a multiple of the 32 of q8_0; --lossy writes the nearest", SQ_PACK_AUTO);
    pack_grid_make(&grid, 2, 0, 3, 0);
    grid.scales[2] = 0.1f;
    refused("tensor 'w': scale 0.100000001 of row 2 is no float16, merge with --scale f16; --lossy writes the nearest",
            SQ_PACK_AUTO);
}

static void lossy_takes_the_nearest(void **state)
{
    (void)state;
    enum sq_pack_type t;
    enum sq_pack_loss loss;
    pack_grid_make(&grid, 8, 0, 255, 0);
    assert_int_equal(sq_pack_choose(&t, &loss, &grid.g, SQ_PACK_AUTO, true), 0);
    assert_int_equal(t, SQ_PACK_Q8_0);
    assert_int_equal(loss, SQ_PACK_ROUNDED);
    pack_grid_make(&grid, 2, 0, 3, 0);
    grid.scales[2] = 0.1f;
    assert_int_equal(sq_pack_choose(&t, &loss, &grid.g, SQ_PACK_AUTO, true), 0);
    assert_int_equal(t, SQ_PACK_Q2_K);
    assert_int_equal(loss, SQ_PACK_SCALES);
    pack_grid_make(&grid, 4, 0, 15, 32);
    assert_int_equal(sq_pack_choose(&t, &loss, &grid.g, SQ_PACK_Q4_1, true), 0);
    assert_int_equal(t, SQ_PACK_Q4_1);
    assert_int_equal(loss, SQ_PACK_ROUNDED);
    pack_grid_make(&grid, 2, 0, 3, 0);
    grid.g.cols = 48;
    assert_int_equal(sq_pack_choose(&t, &loss, &grid.g, SQ_PACK_AUTO, true), 0);
    assert_int_equal(t, SQ_PACK_F16);
    assert_int_equal(sq_pack_choose(&t, &loss, &grid.g, SQ_PACK_Q4_K, true), SQ_E_UNSUP);
}

static void blocks_are_the_golden_ones(void **state)
{
    (void)state;
    static const struct {
        int bits, zlo, zhi;
        int64_t group;
        enum sq_pack_type type;
        const char *digest;
    } rows[] = {
        {2, 0, 3, 0, SQ_PACK_Q2_K, "50b39dc88bde5590"},   {3, 3, 4, 256, SQ_PACK_Q3_K, "01f748593cd43f19"}, {3, 0, 7, 32, SQ_PACK_Q4_0, "f8e889edfcb45af9"},
        {4, 7, 8, 64, SQ_PACK_Q4_0, "2d94bf8672096ee9"},  {1, 0, 1, 64, SQ_PACK_Q4_1, "18b87af2e452274f"},  {4, 0, 15, 0, SQ_PACK_Q4_K, "d04e15be8b0e3ca9"},
        {4, 0, 15, 32, SQ_PACK_Q5_0, "fb7f02b1bd00a317"}, {5, 0, 31, 256, SQ_PACK_Q5_K, "61d4bc54ebe1368c"}, {6, 31, 32, 0, SQ_PACK_Q6_K, "753952fde7250b43"},
        {7, 0, 127, 64, SQ_PACK_Q8_0, "2a3af2d96a4344af"}, {8, 127, 128, 0, SQ_PACK_Q8_0, "5dd134e73bef0af2"},
    };
    for (int64_t i = 0; i < SQ_COUNT(rows); i++) {
        struct sq_hash h;
        char text[SQ_HASH_TEXT];
        uint8_t row[PACK_COLS * 4];
        pack_grid_make(&grid, rows[i].bits, rows[i].zlo, rows[i].zhi, rows[i].group);
        assert_int_equal(sq_hash_init(&h), 0);
        for (int64_t r = 0; r < grid.g.rows; r++) {
            assert_true(sq_pack_row(row, &grid.g, r, rows[i].type, SQ_PACK_EXACT));
            sq_hash_add(&h, row, (size_t)sq_pack_row_bytes(rows[i].type, PACK_COLS));
        }
        sq_hash_text(text, sq_hash_value(&h));
        sq_hash_release(&h);
        if (strcmp(text, rows[i].digest))
            print_message("%s %d bits: %s\n", sq_pack_info(rows[i].type)->name, rows[i].bits, text);
        assert_string_equal(text, rows[i].digest);
    }
}

static void types_have_names(void **state)
{
    (void)state;
    enum sq_pack_type t;
    assert_int_equal(sq_pack_type_parse(&t, "Q4_K"), 0);
    assert_int_equal(t, SQ_PACK_Q4_K);
    assert_int_equal(sq_pack_type_parse(&t, "q9_z"), SQ_E_ARG);
    assert_null(sq_pack_info((enum sq_pack_type)4));
    assert_null(sq_pack_info(SQ_PACK_AUTO));
    assert_int_equal(sq_pack_row_bytes(SQ_PACK_Q2_K, 512), 168);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_smallest_exact_type_is_chosen),
        cmocka_unit_test(what_no_type_holds_is_refused_with_its_reason),
        cmocka_unit_test(lossy_takes_the_nearest),
        cmocka_unit_test(blocks_are_the_golden_ones),
        cmocka_unit_test(types_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
