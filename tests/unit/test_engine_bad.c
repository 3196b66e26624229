/* streams that lie to the engine: every one is refused with a text that names what is wrong, nothing is written */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <omp.h>
#include <stdlib.h>
#include <unistd.h>

#include "../tiny_stream.h"
#include "sq/engine.h"

static char dir[64], good[96], bad[96], cursor[96], out[96];

static const struct tiny TINY = {.layers = 4, .samples = 3, .length = 4, .heldout = 1, .hidden = 32, .ffn = 48,
                                 .vocab = 64, .seed = 1};

static int run(const char *to, const char *from, const char *windows)
{
    struct sq_app app = {.prog = "test", .no_prov = true};
    struct sq_window_opts o = SQ_WINDOW_OPTS_INIT;
    struct sq_stream *in = NULL, *s = NULL;
    struct sq_plan plan;
    int rc;
    o.scheme = "W4A16";
    o.schedule = "fixed:2,1";
    o.epochs = 1;
    o.rate = 1.0;
    o.windows = windows;
    SQ_TRY(sq_plan_make(&plan, &o, 0));
    SQ_TRY(sq_stream_open(&in, from, SQ_READ));
    SQ_TRY(sq_stream_open(&s, to, SQ_WRITE));
    SQ_TRY(sq_window_passes(s, in, &plan, &app));
    SQ_TRY(sq_stream_finish(&in));
    SQ_TRY(sq_stream_finish(&s));
out:
    sq_stream_abort(&s, rc);
    sq_stream_abort(&in, rc);
    return rc;
}

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%.40s/sq-engine-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir))
        return -1;
    snprintf(good, sizeof good, "%s/good", dir);
    snprintf(bad, sizeof bad, "%s/bad", dir);
    snprintf(cursor, sizeof cursor, "%s/cursor", dir);
    snprintf(out, sizeof out, "%s/out", dir);
    return tiny_write(good, &TINY) < 0 || run(cursor, good, "0") < 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(good);
    unlink(bad);
    unlink(cursor);
    unlink(out);
    return rmdir(dir);
}

/* What happens to one record on its way: its header may be changed, its payload too (it is a copy). LATE: it comes, without
 * payload, behind the embedding. */
enum edit { KEEP, DROP, TWICE, SHORT, LATE };
typedef enum edit (*edit_fn)(json_t *head, char *payload, int64_t bytes);

static void rewrite(const char *from, edit_fn edit)
{
    const struct sq_app app = {.prog = "test", .no_prov = true};
    struct sq_stream *in = NULL, *s = NULL;
    struct sq_record rec = {0};
    json_t *late = NULL;
    int rc;
    assert_int_equal(sq_stream_open(&in, from, SQ_READ), 0);
    assert_int_equal(sq_stream_open(&s, bad, SQ_WRITE), 0);
    assert_int_equal(sq_stream_begin(s, in, &app), 0);
    while ((rc = sq_stream_next(in, &rec)) > 0) {
        char *payload = malloc((size_t)rec.bytes + 1);
        if (rec.bytes)
            assert_int_equal(sq_stream_payload(in, payload, (size_t)rec.bytes), 0);
        const enum edit what = edit(rec.head, payload, rec.bytes);
        const size_t bytes = (size_t)(what == SHORT ? rec.bytes / 2 : rec.bytes);
        for (int i = what == DROP || what == LATE; i < (what == TWICE ? 2 : 1); i++)
            assert_int_equal(sq_stream_put(s, rec.head, payload, bytes), 0);
        const char *name = json_string_value(json_object_get(rec.head, "name"));
        if (late && name && strcmp(name, SQ_EMBED_NAME) == 0)
            assert_int_equal(sq_stream_put(s, late, NULL, 0), 0);
        if (what == LATE)
            late = json_incref(rec.head);
        free(payload);
    }
    assert_int_equal(rc, 0);
    json_decref(late);
    sq_record_release(&rec);
    assert_int_equal(sq_stream_finish(&in), 0);
    assert_int_equal(sq_stream_finish(&s), 0);
}

static bool is(const json_t *head, const char *record)
{
    return strcmp(json_string_value(json_object_get(head, "record")), record) == 0;
}

static void set_int(json_t *head, const char *key, int64_t x)
{
    json_object_set_new(head, key, json_integer(x));
}

#define EDIT(name) static enum edit name(json_t *head, char *payload, int64_t bytes)
#define UNUSED (void)head, (void)payload, (void)bytes

EDIT(no_model) { UNUSED; return is(head, "model") ? DROP : KEEP; }
EDIT(two_models) { UNUSED; return is(head, "model") ? TWICE : KEEP; }
EDIT(two_tokens) { UNUSED; return is(head, "tokens") ? TWICE : KEEP; }
EDIT(short_tokens) { UNUSED; return is(head, "tokens") ? SHORT : KEEP; }

EDIT(huge_tokens)
{
    UNUSED;
    if (is(head, "tokens"))
        set_int(head, "samples", INT64_C(1) << 50);
    return KEEP;
}

EDIT(negative_length)
{
    UNUSED;
    if (is(head, "tokens"))
        set_int(head, "length", -4);
    return KEEP;
}

EDIT(all_heldout)
{
    UNUSED;
    if (is(head, "tokens"))
        set_int(head, "heldout", 3);
    return KEEP;
}

EDIT(no_dtype)
{
    UNUSED;
    if (is(head, "tokens"))
        json_object_del(head, "dtype");
    return KEEP;
}

EDIT(foreign_id)
{
    UNUSED;
    if (is(head, "tokens"))
        memset(payload + 8, 0x7f, 4);
    return KEEP;
}

static bool embedding(const json_t *head)
{
    const char *name = json_string_value(json_object_get(head, "name"));
    return is(head, "tensor") && name && strcmp(name, SQ_EMBED_NAME) == 0;
}

EDIT(no_embedding) { UNUSED; return embedding(head) ? DROP : KEEP; }
EDIT(two_embeddings) { UNUSED; return embedding(head) ? TWICE : KEEP; }

EDIT(flat_embedding)
{
    UNUSED;
    if (embedding(head))
        json_object_set_new(head, "shape", json_pack("[i]", 64 * 32));
    return KEEP;
}

EDIT(codes_embedding)
{
    UNUSED;
    if (embedding(head))
        json_object_set_new(head, "dtype", json_string("i32"));
    return KEEP;
}

EDIT(nan_embedding)
{
    UNUSED;
    if (embedding(head))
        memset(payload, 0xff, (size_t)bytes);
    return KEEP;
}

EDIT(few_layers)
{
    UNUSED;
    if (is(head, "model"))
        set_int(json_object_get(head, "config"), "layers", 5);
    return KEEP;
}

EDIT(wrong_index)
{
    UNUSED;
    if (is(head, "layer") && json_integer_value(json_object_get(head, "index")) == 1)
        set_int(head, "index", 2);
    return KEEP;
}

EDIT(cursor_gone) { UNUSED; return is(head, "cursor") && bytes > 0 ? DROP : KEEP; }
EDIT(cursor_short) { UNUSED; return is(head, "cursor") && bytes > 0 ? SHORT : KEEP; }

EDIT(cursor_late) { UNUSED; return is(head, "cursor") && bytes == 0 ? LATE : KEEP; }

EDIT(cursor_moved)
{
    UNUSED;
    if (is(head, "cursor") && bytes > 0)
        set_int(head, "layer", 2);
    return KEEP;
}

EDIT(cursor_rate)
{
    UNUSED;
    if (is(head, "cursor"))
        json_object_set_new(head, "rate", json_string("fast"));
    return KEEP;
}

EDIT(cursor_backward)
{
    UNUSED;
    if (is(head, "cursor"))
        set_int(head, "float_layer", 0);
    return KEEP;
}

EDIT(cursor_forward)
{
    UNUSED;
    if (is(head, "cursor"))
        set_int(head, "float_layer", 3);
    return KEEP;
}

EDIT(cursor_backend)
{
    UNUSED;
    if (is(head, "cursor"))
        json_object_set_new(head, "backend", json_string("cuda sm_90 bf16"));
    return KEEP;
}

struct lie {
    bool cursor; /* in a stream that carries a cursor */
    edit_fn edit;
    const char *text; /* part of the error */
};

static const struct lie LIES[] = {
    {false, no_model, "model"},
    {false, two_models, "two model records"},
    {false, two_tokens, "two tokens records"},
    {false, short_tokens, "tokens are i32 and 24 bytes, not i32 and 48"},
    {false, huge_tokens, "'samples'"},
    {false, negative_length, "'length'"},
    {false, all_heldout, "all of the 3 samples are held out"},
    {false, no_dtype, "'dtype'"},
    {false, foreign_id, "token 2 is id 2139062143; the model has 64"},
    {false, no_embedding, "model.embed_tokens.weight"},
    {false, two_embeddings, "two embeddings"},
    {false, flat_embedding, "is not [64, 32]"},
    {false, codes_embedding, "model.embed_tokens.weight"},
    {false, nan_embedding, "model.embed_tokens.weight"},
    {false, few_layers, "layer 4 of 5 is missing"},
    {false, wrong_index, "layer"},
    {true, cursor_gone, "is missing; use --no-cursor"},
    {true, cursor_short, "--no-cursor"},
    {true, cursor_late, "behind the embedding; use --no-cursor"},
    {true, cursor_moved, "--no-cursor"},
    {true, cursor_rate, "'rate'"},
    {true, cursor_backward, "'float_layer'"},
    {true, cursor_forward, "layer 2 behind the cursor has not learned what its activations say"},
    {true, cursor_backend, "'cuda sm_90 bf16'"},
};

static void test_lies(void **state)
{
    (void)state;
    const int64_t before = sq_mem_used();
    for (int i = 0; i < SQ_COUNT(LIES); i++) {
        const struct lie *l = &LIES[i];
        rewrite(l->cursor ? cursor : good, l->edit);
        unlink(out);
        const int rc = run(out, bad, l->cursor ? "1-2" : NULL);
        if (rc >= 0 || !strstr(sq_errmsg(), l->text))
            fail_msg("lie %d: %d, '%s' where '%s' was expected", i, rc, sq_errmsg(), l->text);
        if (access(out, F_OK) == 0)
            fail_msg("lie %d left an output", i);
        assert_int_equal(sq_mem_used(), before);
    }
}

EDIT(nothing) { UNUSED; return KEEP; }

/* the same way without a lie is accepted, so that what is refused above is refused for the lie */
static void test_truth(void **state)
{
    (void)state;
    rewrite(good, nothing);
    if (run(out, bad, NULL) < 0)
        fail_msg("%s", sq_errmsg());
    rewrite(cursor, nothing);
    if (run(out, bad, "1-2") < 0)
        fail_msg("%s", sq_errmsg());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truth),
        cmocka_unit_test(test_lies),
    };
    sq_log_set("test", SQ_ERROR);
    omp_set_num_threads(1);
    return cmocka_run_group_tests_name("engine_bad", tests, setup, teardown);
}
