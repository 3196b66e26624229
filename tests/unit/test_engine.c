/* the engine over generated streams: any cut into processes gives the same records, memory does not grow with layers */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <omp.h>
#include <stdlib.h>
#include <unistd.h>

#include "../tiny_stream.h"
#include "sq/engine.h"
#include "sq/json.h"

static char dir[64];
static char path[8][96]; /* files a .. h in dir */

static const struct tiny TINY = {.layers = 5, .samples = 7, .length = 8, .heldout = 2, .hidden = 32, .ffn = 48,
                                 .vocab = 64, .seed = 1};

static int make_dir(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%.40s/sq-engine-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir))
        return -1;
    for (int i = 0; i < SQ_COUNT(path); i++)
        snprintf(path[i], sizeof path[i], "%s/%c", dir, 'a' + i);
    return tiny_write(path[0], &TINY);
}

static int drop_dir(void **state)
{
    (void)state;
    for (int i = 0; i < SQ_COUNT(path); i++)
        unlink(path[i]);
    return rmdir(dir);
}

static struct sq_window_opts options(void)
{
    struct sq_window_opts o = SQ_WINDOW_OPTS_INIT;
    o.scheme = "W2A16";
    o.schedule = "slider:2,2,2,1"; /* 0-0 0-1 1-2 2-3 3-4 4-4 */
    o.epochs = 2;
    o.batch = 2;
    o.init = SQ_INIT_MINMAX; /* the search takes half of the time; some tests ask for it */
    return o;
}

static int try_run(const char *out_path, const char *in_path, const struct sq_window_opts *o)
{
    struct sq_app app = {.prog = "test", .no_prov = true, .backend = SQ_BACKEND_AUTO, .seed = 3};
    struct sq_stream *in = NULL, *out = NULL;
    struct sq_plan plan;
    int rc;
    SQ_TRY(sq_plan_make(&plan, o, app.seed));
    SQ_TRY(sq_stream_open(&in, in_path, SQ_READ));
    SQ_TRY(sq_stream_open(&out, out_path, SQ_WRITE));
    SQ_TRY(sq_window_passes(out, in, &plan, &app));
    SQ_TRY(sq_stream_finish(&in));
    SQ_TRY(sq_stream_finish(&out));
out:
    sq_stream_abort(&out, rc);
    sq_stream_abort(&in, rc);
    return rc;
}

static void run(const char *out_path, const char *in_path, const struct sq_window_opts *o)
{
    if (try_run(out_path, in_path, o) < 0)
        fail_msg("%s", sq_errmsg());
}

/* The next record that belongs to "same bytes"; 0 at the end. */
static int next(struct sq_stream *s, struct sq_record *rec)
{
    int rc;
    do
        rc = sq_stream_next(s, rec);
    while (rc > 0 && rec->kind == SQ_REC_CURSOR);
    return rc;
}

/* NULL when both streams carry the same records, else what differs first. */
static const char *difference(const char *a_path, const char *b_path)
{
    static char text[256];
    struct sq_stream *a = NULL, *b = NULL;
    struct sq_record ra = {0}, rb = {0};
    int na, nb = 0;
    text[0] = '\0';
    assert_int_equal(sq_stream_open(&a, a_path, SQ_READ), 0);
    assert_int_equal(sq_stream_open(&b, b_path, SQ_READ), 0);
    while ((na = next(a, &ra)) > 0 && (nb = next(b, &rb)) > 0 && !text[0]) {
        char *ha = json_dumps(ra.head, JSON_COMPACT), *hb = json_dumps(rb.head, JSON_COMPACT);
        if (strcmp(ha, hb) != 0 || ra.bytes != rb.bytes) {
            snprintf(text, sizeof text, "%.120s : %.120s", ha, hb);
        } else if (ra.bytes > 0) {
            char *pa = malloc((size_t)ra.bytes), *pb = malloc((size_t)ra.bytes);
            assert_int_equal(sq_stream_payload(a, pa, (size_t)ra.bytes), 0);
            assert_int_equal(sq_stream_payload(b, pb, (size_t)ra.bytes), 0);
            if (memcmp(pa, pb, (size_t)ra.bytes) != 0)
                snprintf(text, sizeof text, "payload of %.200s", ha);
            free(pa);
            free(pb);
        }
        free(ha);
        free(hb);
    }
    if (!text[0] && na == 0)
        nb = next(b, &rb);
    if (!text[0] && (na < 0 || nb < 0 || na != nb))
        snprintf(text, sizeof text, "one is shorter");
    sq_record_release(&ra);
    sq_record_release(&rb);
    sq_stream_abort(&a, 0);
    sq_stream_abort(&b, 0);
    return text[0] ? text : NULL;
}

static void assert_same(const char *a, const char *b)
{
    const char *d = difference(a, b);
    if (d)
        fail_msg("%s", d);
}

/* Calls see() with every layer, and with every window record (layer NULL). */
static void walk(const char *p, void (*see)(const struct sq_layer *l, const json_t *window, void *ctx), void *ctx)
{
    struct sq_stream *s = NULL;
    struct sq_record rec = {0};
    int rc;
    assert_int_equal(sq_stream_open(&s, p, SQ_READ), 0);
    while ((rc = sq_stream_next(s, &rec)) > 0) {
        if (rec.kind == SQ_REC_WINDOW)
            see(NULL, rec.head, ctx);
        if (rec.kind != SQ_REC_LAYER)
            continue;
        struct sq_layer l = SQ_LAYER_INIT;
        assert_int_equal(sq_layer_read(&l, s, &rec), 0);
        see(&l, NULL, ctx);
        sq_layer_release(&l);
    }
    assert_int_equal(rc, 0);
    sq_record_release(&rec);
    assert_int_equal(sq_stream_finish(&s), 0);
}

struct seen {
    int64_t layers, windows, final, learning, plain, params, better, fallbacks;
    double rate;
    char order[256]; /* "w0-0 l0 w0-1 ..." */
};

static void see(const struct sq_layer *l, const json_t *w, void *ctx)
{
    struct seen *s = ctx;
    const size_t n = strlen(s->order);
    if (w) {
        const json_t *loss = json_object_get(w, "losses");
        s->windows++;
        s->better += json_real_value(json_object_get(loss, "exit")) < json_real_value(json_object_get(loss, "entry"));
        assert_true(json_real_value(json_object_get(loss, "heldout_exit")) > 0.0);
        s->fallbacks += json_integer_value(json_object_get(w, "fallbacks"));
        snprintf(s->order + n, sizeof s->order - n, "w%d-%d ", (int)json_integer_value(json_object_get(w, "first")),
                 (int)json_integer_value(json_object_get(w, "last")));
        return;
    }
    struct sq_scheme scheme;
    s->layers++;
    s->final += l->state == SQ_FINAL;
    s->learning += l->state == SQ_LEARNING;
    s->plain += l->state == SQ_FLOAT;
    if (l->scheme) {
        assert_int_equal(sq_scheme_from_json(&scheme, l->scheme), 0);
        s->rate = scheme.rate;
    }
    for (int64_t i = 0; i < l->ntensor; i++) {
        const char *dot = strrchr(l->tensor[i].name, '.');
        s->params += strcmp(dot, ".lora_A") == 0 || strcmp(dot, ".u") == 0;
    }
    snprintf(s->order + n, sizeof s->order - n, "l%d ", (int)l->index);
}

static struct seen look(const char *p)
{
    struct seen s = {0};
    walk(p, see, &s);
    return s;
}

/* ---- tests ---- */

static void test_learns(void **state)
{
    (void)state;
    struct sq_window_opts o = options();
    o.gamma = 1.0;
    o.init = SQ_INIT_ACT;
    run(path[1], path[0], &o);
    struct seen s = look(path[1]);
    assert_int_equal(s.windows, 6);
    assert_int_equal(s.layers, 5);
    assert_int_equal(s.final, 5);
    assert_int_equal(s.params, 5 * 7 * 2);
    assert_true(s.better >= 5 && s.fallbacks == 0);
    /* a window is reported when it is done; a layer leaves as soon as no later window covers it */
    assert_string_equal(s.order, "w0-0 w0-1 l0 w1-2 l1 w2-3 l2 w3-4 l3 w4-4 l4 ");
}

static void test_rates(void **state)
{
    (void)state;
    struct sq_window_opts o = options();
    run(path[1], path[0], &o); /* 0.5 and 1 in one process */
    o.rate = 0.5;
    run(path[2], path[0], &o);
    struct seen s = look(path[2]);
    assert_int_equal(s.learning, 5);
    assert_true(s.rate == 0.5);
    o.rate = 1.0;
    run(path[3], path[2], &o);
    assert_same(path[1], path[3]);
    s = look(path[3]);
    assert_int_equal(s.final, 5);
    assert_int_equal(s.windows, 12);
    assert_true(s.rate == 1.0);
    /* and the comparison can fail */
    assert_non_null(difference(path[1], path[2]));
}

/* The stage after the first, cut too: the cursor and the way from the tokens give the same. */
static void cut(struct sq_window_opts o, const char *in)
{
    run(path[1], in, &o);
    o.windows = "0-1";
    run(path[2], in, &o);
    o.windows = "2-3";
    run(path[3], path[2], &o);
    o.windows = "4-5";
    run(path[4], path[3], &o);
    assert_same(path[1], path[4]);
    o.windows = "2-5";
    o.no_cursor = true;
    run(path[5], path[2], &o);
    assert_same(path[1], path[5]);
}

static void test_pieces(void **state)
{
    (void)state;
    struct sq_window_opts o = options();
    o.rate = 0.5;
    o.init = SQ_INIT_ACT;
    cut(o, path[0]);
    run(path[6], path[0], &o);
    o.rate = 1.0;
    cut(o, path[6]); /* window records of the first stage pass through */
}

static void test_pieces_window_order(void **state)
{
    (void)state;
    struct sq_window_opts o = options();
    o.order = SQ_ORDER_WINDOW;
    cut(o, path[0]);
    struct seen s = look(path[1]);
    assert_int_equal(s.windows, 12);
    assert_int_equal(s.final, 5);
    o.scheme = "W4A4";
    cut(o, path[0]);
}

/* A piece that ends inside the schedule leaves layers that later windows cover unfinished. */
static void test_states(void **state)
{
    (void)state;
    struct sq_window_opts o = options();
    o.gamma = 1.0;
    o.windows = "0-2"; /* 0-0 0-1 1-2; the next one is 2-3 */
    run(path[1], path[0], &o);
    struct seen s = look(path[1]);
    assert_int_equal(s.final, 2);
    assert_int_equal(s.learning, 1);
    assert_int_equal(s.plain, 2);
    o.windows = "1,4"; /* with a gap: 0-1 and 3-4, layer 2 stays float */
    run(path[1], path[0], &o);
    s = look(path[1]);
    assert_int_equal(s.windows, 2);
    assert_int_equal(s.plain, 1);
    assert_string_equal(s.order, "w0-1 l0 l1 l2 w3-4 l3 l4 ");
}

static void test_cursor_mismatch(void **state)
{
    (void)state;
    struct sq_window_opts o = options();
    o.rate = 0.5;
    o.windows = "0-1";
    run(path[1], path[0], &o);
    /* windows that begin before the cursor: ignored, and the same as without it */
    o.windows = "1-2";
    run(path[2], path[1], &o);
    o.no_cursor = true;
    run(path[3], path[1], &o);
    assert_same(path[2], path[3]);
    /* a rate of its own: ignored too */
    o.windows = "2-3";
    o.rate = 1.0;
    run(path[3], path[1], &o);
    o.no_cursor = false;
    run(path[2], path[1], &o);
    assert_same(path[2], path[3]);
}

/* Copy a stream and change one number of the tensor `name` in layer 0. */
static void damage(const char *out_path, const char *in_path, const char *name)
{
    const struct sq_app app = {.prog = "test", .no_prov = true};
    struct sq_stream *in = NULL, *out = NULL;
    struct sq_record rec = {0};
    assert_int_equal(sq_stream_open(&in, in_path, SQ_READ), 0);
    assert_int_equal(sq_stream_open(&out, out_path, SQ_WRITE), 0);
    assert_int_equal(sq_stream_begin(out, in, &app), 0);
    while (sq_stream_next(in, &rec) > 0) {
        if (rec.kind != SQ_REC_LAYER) {
            assert_int_equal(sq_stream_copy(out, in, &rec), 0);
            continue;
        }
        struct sq_layer l = SQ_LAYER_INIT;
        assert_int_equal(sq_layer_read(&l, in, &rec), 0);
        if (l.index == 0) {
            struct sq_tensor *t = sq_layer_find(&l, name);
            assert_non_null(t);
            ((float *)t->owned)[0] += 1.0f;
        }
        assert_int_equal(sq_layer_write(out, &l), 0);
        sq_layer_release(&l);
    }
    sq_record_release(&rec);
    assert_int_equal(sq_stream_finish(&in), 0);
    assert_int_equal(sq_stream_finish(&out), 0);
}

static void test_cursor_digest(void **state)
{
    (void)state;
    struct sq_window_opts o = options();
    o.rate = 0.5;
    o.windows = "0-1";
    run(path[1], path[0], &o);
    damage(path[2], path[1], "self_attn.q_proj.u");
    o.windows = "2-3";
    assert_int_equal(try_run(path[3], path[2], &o), SQ_E_FORMAT);
    assert_non_null(strstr(sq_errmsg(), "--no-cursor"));
    assert_int_equal(access(path[3], F_OK) == 0 && difference(path[3], path[2]) == NULL, 0);
    o.no_cursor = true;
    run(path[3], path[2], &o);
}

static void test_plain(void **state)
{
    (void)state;
    struct tiny m = TINY;
    struct sq_window_opts o = options();
    m.no_tokens = true;
    assert_int_equal(tiny_write(path[1], &m), 0);
    o.learn = "none";
    run(path[2], path[1], &o);
    struct seen s = look(path[2]);
    assert_int_equal(s.final, 5);
    assert_int_equal(s.params, 0);
    assert_int_equal(s.windows, 0);
    o.learn = "lwc";
    assert_int_equal(try_run(path[3], path[1], &o), SQ_E_FORMAT);
    assert_non_null(strstr(sq_errmsg(), "sq-calib"));
    /* a searched start without training: clipping only, no steps */
    o.learn = "none";
    o.init = SQ_INIT_ACT;
    run(path[2], path[0], &o);
    s = look(path[2]);
    assert_int_equal(s.params, 5 * 7);
    assert_int_equal(s.windows, 6);
    assert_int_equal(s.better, 0);
    /* and more is learned on top of it */
    o.learn = "lora";
    run(path[3], path[2], &o);
    s = look(path[3]);
    assert_int_equal(s.params, 5 * 7 * 2);
}

static void test_errors(void **state)
{
    (void)state;
    struct sq_window_opts o = options();
    o.schedule = "slider:4,4";
    assert_int_equal(try_run(path[1], path[0], &o), SQ_E_ARG);
    assert_non_null(strstr(sq_errmsg(), "try --schedule"));
    o = options();
    o.windows = "0-1";
    assert_int_equal(try_run(path[1], path[0], &o), SQ_E_ARG); /* two stages cannot be cut */
    assert_non_null(strstr(sq_errmsg(), "--rate"));
    const char *bad[] = {"6", "0-6", "2-1", "1,0", "", "x", "0-", "0,,1", "99999999"};
    o.rate = 1.0;
    for (int i = 0; i < SQ_COUNT(bad); i++) {
        o.windows = bad[i];
        assert_int_equal(try_run(path[1], path[0], &o), SQ_E_ARG);
    }
    o = options();
    o.gamma = 0.3;
    assert_int_equal(try_run(path[1], path[0], &o), SQ_E_ARG);
    o = options();
    o.learn = "lora,everything";
    assert_int_equal(try_run(path[1], path[0], &o), SQ_E_ARG);
    o = options();
    o.rate = 0.5;
    run(path[1], path[0], &o);
    o.scheme = "W4A16";
    assert_int_equal(try_run(path[2], path[1], &o), SQ_E_ARG);
    assert_string_equal(sq_errmsg(), "layer 0: it was learned as W2A16, not W4A16");
    o = options();
    o.strict = true;
    o.learn = "lora";
    o.lr[SQ_P_LORA] = 1e3;
    assert_int_equal(try_run(path[2], path[0], &o), SQ_E_VALUE);
    assert_non_null(strstr(sq_errmsg(), "--strict"));
    o.strict = false;
    run(path[2], path[0], &o);
    assert_true(look(path[2]).fallbacks > 0);
}

static void test_threads(void **state)
{
    (void)state;
    const int before = omp_get_max_threads();
    struct sq_window_opts o = options();
    o.scheme = "W4A4";
    for (int i = 0; i < 3; i++) {
        omp_set_num_threads(1 << i);
        run(path[1 + i], path[0], &o);
    }
    omp_set_num_threads(before);
    assert_same(path[1], path[2]);
    assert_same(path[1], path[3]);
}

/* Peak memory of 8 and of 64 layers: the same windows, the same activations. */
static void test_memory(void **state)
{
    (void)state;
    struct tiny m = TINY;
    struct sq_window_opts o = options();
    int64_t peak[2], used[2];
    o.schedule = "slider:2,2,2,1";
    o.epochs = 1;
    for (int i = 0; i < 2; i++) {
        m.layers = i ? 64 : 8;
        assert_int_equal(tiny_write(path[1], &m), 0);
        run(path[2], path[1], &o);
        peak[i] = sq_mem_peak();
        used[i] = sq_mem_used();
    }
    assert_int_equal(used[1], used[0]); /* oneDNN's code for the shapes of the first run stays */
    /* the schedule itself grows: 16 bytes a window */
    if (peak[1] > peak[0] + 4096)
        fail_msg("peak memory grew from %d to %d bytes", (int)peak[0], (int)peak[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory), /* first: the peak is that of the process */
        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_pieces_window_order),
        cmocka_unit_test(test_states),
        cmocka_unit_test(test_cursor_mismatch),
        cmocka_unit_test(test_cursor_digest),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_threads),
    };
    sq_log_set("test", SQ_ERROR);
    omp_set_num_threads(1); /* layers this small gain nothing from more, and lose much on a busy machine */
    return cmocka_run_group_tests_name("engine", tests, make_dir, drop_dir);
}
