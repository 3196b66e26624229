/* block codecs: which type holds which codes, byte for byte as when gguf.quants.dequantize was run over them
 * (tests/long/pack_blocks.py), and what is said when none does */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../gen/pack_grid.h"
#include "sq/gguf.h"
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

static float value(const struct sq_grid *g, int64_t r, int64_t c)
{
    const int64_t group = g->group ? g->group : g->cols, at = r * (g->cols / group) + c / group;
    return (float)((int)g->codes[r * g->cols + c] - (int)g->zeros[at]) * g->scales[at];
}

/* rows that come back as they went in; the row buffer is filled with ones, so that unset bits show */
static int64_t round_trip(const struct sq_grid *g, enum sq_pack_type t)
{
    static uint8_t row[PACK_COLS * 4];
    static float y[PACK_COLS];
    int64_t same = 0;
    for (int64_t r = 0; r < g->rows; r++) {
        bool equal = true;
        memset(row, 0xff, sizeof row);
        assert_true(sq_pack_row(row, g, r, t, SQ_PACK_EXACT));
        sq_gguf_dequant(y, (int)t, row, g->cols);
        for (int64_t c = 0; c < g->cols; c++)
            equal &= y[c] == value(g, r, c);
        same += equal;
    }
    return same;
}

static void every_code_and_zero_point_returns(void **state)
{
    (void)state;
    static const int64_t groups[] = {0, 16, 32, 64, 128, 256};
    int64_t tried[SQ_PACK_TYPES] = {0};
    for (int bits = 1; bits <= 8; bits++)
        for (int zlo = 0; zlo < 1 << bits; zlo += SQ_MAX(1, (1 << bits) / 8))
            for (int64_t i = 0; i < SQ_COUNT(groups); i++)
                for (int t = 0; t < SQ_PACK_TYPES; t++) {
                    const int step = SQ_MAX(1, (1 << bits) / 8);
                    pack_grid_make(&grid, bits, zlo, SQ_MIN((1 << bits) - 1, zlo + step), groups[i]);
                    if (!sq_pack_info((enum sq_pack_type)t) ||
                        !sq_pack_fits(&grid.g, (enum sq_pack_type)t, SQ_PACK_EXACT))
                        continue;
                    assert_int_equal(round_trip(&grid.g, (enum sq_pack_type)t), grid.g.rows);
                    tried[t] += grid.g.rows;
                }
    for (int t = 0; t < SQ_PACK_TYPES; t++)
        if (sq_pack_info((enum sq_pack_type)t) && t != SQ_PACK_BF16)
            assert_true(tried[t] >= 8);
}

/* An all-zero row has no scale that matters: d is 0, so that nothing but 0 can come of it. */
static void zero_rows_have_scale_zero(void **state)
{
    (void)state;
    uint8_t row[PACK_COLS * 4];
    pack_grid_make(&grid, 2, 1, 1, 0);
    memset(grid.codes, 1, PACK_COLS);
    assert_true(sq_pack_row(row, &grid.g, 0, SQ_PACK_Q2_K, SQ_PACK_EXACT));
    assert_int_equal(row[80] | row[81] | row[82] | row[83], 0);
    assert_true(sq_pack_row(row, &grid.g, 0, SQ_PACK_Q4_0, SQ_PACK_EXACT));
    assert_int_equal(row[0] | row[1], 0);
    assert_int_equal(round_trip(&grid.g, SQ_PACK_Q2_K), 1);
}

/* Rounding anew stays within half a step of the block's largest value. */
static void lossy_values_are_near(void **state)
{
    (void)state;
    static const struct {
        enum sq_pack_type t;
        double steps;
    } rows[] = {{SQ_PACK_Q8_0, 128}, {SQ_PACK_Q5_0, 16}, {SQ_PACK_Q4_0, 8}};
    for (int64_t i = 0; i < SQ_COUNT(rows); i++) {
        uint8_t row[PACK_COLS * 4];
        float y[PACK_COLS];
        pack_grid_make(&grid, 8, 0, 255, 0);
        for (int64_t r = 4; r < grid.g.rows; r += 8) {
            assert_true(sq_pack_row(row, &grid.g, r, rows[i].t, SQ_PACK_ROUNDED));
            sq_gguf_dequant(y, (int)rows[i].t, row, PACK_COLS);
            for (int64_t c = 0; c < PACK_COLS; c++) {
                double top = 0;
                for (int64_t k = c / 32 * 32; k < c / 32 * 32 + 32; k++)
                    top = fmax(top, fabs((double)value(&grid.g, r, k)));
                /* one end of the scale reaches the largest value, the other stops one step short of it */
                assert_true(fabs((double)y[c] - (double)value(&grid.g, r, c)) <= 1.01 * top / rows[i].steps);
            }
        }
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
        cmocka_unit_test(every_code_and_zero_point_returns),
        cmocka_unit_test(zero_rows_have_scale_zero),
        cmocka_unit_test(lossy_values_are_near),
        cmocka_unit_test(types_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
