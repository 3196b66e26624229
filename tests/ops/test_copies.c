/* What runs beside a device's work: streams and marks as the emulator orders them, copies through the ring, recordings. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../emulator.h"
#include "sq/device.h"

enum { N = 1000, SEEDS = 40 };

static const struct sq_device *dev;
static const struct sq_ops *ops;

static int load(void **state)
{
    (void)state;
    emulator_use();
    if (sq_ops_get(&ops, SQ_BACKEND_CUDA, SQ_BF16_PRODUCTS) == 0 && sq_device_load(&dev, false) == 0)
        return 0;
    print_error("%s\n", sq_errmsg());
    return -1;
}

/* ---- streams ---- */

struct pair {
    struct sq_gpu *gpu;
    float *x, *y, *pinned;
};

static struct pair pair_new(int seed)
{
    struct pair p = {0};
    char text[16], why[256] = "";
    void *at = NULL;
    snprintf(text, sizeof text, "%d", seed);
    setenv("SQ_EMU_SEED", text, 1);
    assert_int_equal(dev->open(&p.gpu, 0, why, sizeof why), 0);
    unsetenv("SQ_EMU_SEED");
    assert_int_equal(dev->alloc(p.gpu, &at, N * sizeof(float)), 0);
    p.x = at;
    assert_int_equal(dev->alloc(p.gpu, &at, N * sizeof(float)), 0);
    p.y = at;
    assert_int_equal(dev->alloc_pinned(p.gpu, &at, N * sizeof(float)), 0);
    p.pinned = at;
    for (int i = 0; i < N; i++)
        p.pinned[i] = 1;
    dev->fill(p.gpu, SQ_QUEUE_WORK, p.y, 0, N * sizeof(float));
    dev->fill(p.gpu, SQ_QUEUE_WORK, p.x, 0, N * sizeof(float));
    assert_int_equal(dev->sync(p.gpu), 0);
    return p;
}

static float pair_end(struct pair *p)
{
    float v = 0;
    dev->get(p->gpu, SQ_QUEUE_WORK, &v, p->y, sizeof v);
    assert_int_equal(dev->sync(p->gpu), 0);
    dev->free(p->gpu, p->x);
    dev->free(p->gpu, p->y);
    dev->free_pinned(p->gpu, p->pinned);
    dev->close(&p->gpu);
    return v;
}

enum order { RIGHT, WORK_DOES_NOT_WAIT, COPY_DOES_NOT_WAIT, HOST_DOES_NOT_WAIT };

/* y = 1 + 2: x is copied, added, copied anew from the same pinned memory, added. */
static float sum_of_copies(int seed, enum order how)
{
    struct pair p = pair_new(seed);
    for (int value = 1; value <= 2; value++) {
        if (value == 2) {
            if (how != HOST_DOES_NOT_WAIT)
                assert_int_equal(dev->reach(p.gpu, 0), 0);
            for (int i = 0; i < N; i++)
                p.pinned[i] = 2;
            if (how != COPY_DOES_NOT_WAIT)
                dev->after(p.gpu, SQ_QUEUE_COPY, 1);
        }
        dev->put(p.gpu, SQ_QUEUE_COPY, p.x, p.pinned, N * sizeof(float));
        dev->mark(p.gpu, 0, SQ_QUEUE_COPY);
        if (how != WORK_DOES_NOT_WAIT)
            dev->after(p.gpu, SQ_QUEUE_WORK, 0);
        dev->ops->add(p.gpu, p.y, p.x, N);
        dev->mark(p.gpu, 1, SQ_QUEUE_WORK);
    }
    return pair_end(&p);
}

/* Every one of the three mistakes is wrong in some order of the streams, what is right in none. */
static void missing_waits_are_seen(void **state)
{
    (void)state;
    for (int how = RIGHT; how <= HOST_DOES_NOT_WAIT; how++) {
        int wrong = 0;
        for (int seed = 0; seed < SEEDS; seed++)
            wrong += sum_of_copies(seed, (enum order)how) != 3;
        print_message("mistake %d: %d of %d orders show it\n", how, wrong, SEEDS);
        assert_true(how == RIGHT ? wrong == 0 : wrong > SEEDS / 10);
    }
}

/* Nothing has come before somebody waits. */
static void results_wait_for_sync(void **state)
{
    (void)state;
    struct pair p = pair_new(0);
    float early = -1;
    dev->get(p.gpu, SQ_QUEUE_WORK, &early, p.y, sizeof early);
    assert_true(early == -1);
    assert_int_equal(dev->sync(p.gpu), 0);
    assert_true(early == 0);
    assert_true(pair_end(&p) == 0);
}

static float first_of(const struct pair *p)
{
    float v = 0;
    dev->get(p->gpu, SQ_QUEUE_WORK, &v, p->y, sizeof v);
    assert_int_equal(dev->sync(p->gpu), 0);
    return v;
}

static void recordings_run_again(void **state)
{
    (void)state;
    struct pair p = pair_new(3);
    dev->put(p.gpu, SQ_QUEUE_WORK, p.x, p.pinned, N * sizeof(float));
    assert_false(dev->replay(p.gpu, 1));
    dev->record(p.gpu);
    dev->ops->add(p.gpu, p.y, p.x, N);
    dev->ops->add(p.gpu, p.x, p.x, N);
    dev->recorded(p.gpu, 1);
    assert_true(first_of(&p) == 0); /* kept, not run */
    for (int i = 0; i < 3; i++)
        assert_true(dev->replay(p.gpu, 1));
    assert_true(first_of(&p) == 1 + 2 + 4);
    assert_false(dev->replay(p.gpu, 2));
    dev->forget(p.gpu);
    assert_false(dev->replay(p.gpu, 1));
    assert_true(first_of(&p) == 7);
    /* what cannot be recorded */
    dev->record(p.gpu);
    assert_int_equal(dev->sync(p.gpu), SQ_E_DEVICE);
    assert_string_equal(dev->error(p.gpu), "waiting while it records");
    dev->recorded(p.gpu, 1);
    dev->clear(p.gpu);
    assert_true(pair_end(&p) == 7);
}

/* ---- the ring ---- */

/* Some pieces, the last a short one. */
enum { LARGE = 17 << 20, SMALL = 4000 };

static float value(int64_t i)
{
    return (float)(i % 251) - 100; /* exact in bf16, too */
}

static void floats_go_and_come(void **state)
{
    (void)state;
    const enum sq_dtype types[] = {SQ_F32, SQ_BF16};
    for (int k = 0; k < 2; k++) {
        const int64_t n = LARGE / (int64_t)sq_dtype_size(types[k]) + 77;
        const size_t bytes = (size_t)n * sq_dtype_size(types[k]);
        struct sq_floats host = {types[k], malloc(bytes)}, back = {types[k], malloc(bytes)};
        float *all = malloc((size_t)n * sizeof *all);
        void *there = NULL;
        for (int64_t i = 0; i < n; i++)
            all[i] = value(i);
        sq_floats_put(host, all, n);
        assert_int_equal(ops->alloc(&there, (size_t)n * sizeof(float)), 0);
        ops->from_host(there, host, n);
        memset(host.x, 0x11, bytes); /* it is the caller's again */
        ops->to_host(back, there, n);
        assert_int_equal(ops->wait(), 0);
        sq_floats_get(all, back, n);
        for (int64_t i = 0; i < n; i++)
            assert_true(all[i] == value(i));
        ops->release(there);
        free(host.x);
        free(back.x);
        free(all);
    }
}

static void set(float *x, float v)
{
    for (int i = 0; i < SMALL; i++)
        x[i] = v;
}

/* Nobody waits, and there are more of them than buffers: each is used when the work on it is done, not before. */
static void buffers_are_used_again(void **state)
{
    (void)state;
    enum { MANY = 300 };
    float host[SMALL], *back = malloc(MANY * sizeof host), *there;
    void *x = NULL;
    assert_int_equal(ops->alloc(&x, MANY * sizeof host), 0);
    there = x;
    for (int i = 0; i < MANY; i++) {
        set(host, (float)i);
        ops->from_host(there + i * SMALL, (struct sq_floats){SQ_F32, host}, SMALL);
        ops->add(there + i * SMALL, there + i * SMALL, SMALL);
    }
    for (int i = 0; i < MANY; i++)
        ops->to_host((struct sq_floats){SQ_F32, back + i * SMALL}, there + i * SMALL, SMALL);
    assert_int_equal(ops->wait(), 0);
    for (int i = 0; i < MANY * SMALL; i++)
        assert_true(back[i] == 2 * (float)(i / SMALL));
    ops->release(there);
    free(back);
}

static float arrives_as(float *there, const float *host)
{
    float back[SMALL];
    ops->from_host(there, (struct sq_floats){SQ_F32, (void *)(uintptr_t)host}, SMALL);
    assert_int_equal(ops->get(back, there, sizeof back), 0);
    for (int i = 1; i < SMALL; i++)
        assert_true(back[i] == back[0]);
    return back[0];
}

/* Its bytes are taken when they are expected: what changes then comes too late; forgotten, they are read anew. */
static void what_is_expected_is_there(void **state)
{
    (void)state;
    static float host[SMALL], other[SMALL];
    const struct sq_floats a = {SQ_F32, host};
    void *there = NULL;
    assert_int_equal(ops->alloc(&there, sizeof host), 0);
    set(host, 1);
    ops->expect(a, SMALL);
    ops->expect(a, SMALL);
    set(host, 2);
    for (int i = 0; i < 100; i++) { /* others need buffers */
        set(other, (float)i);
        assert_true(arrives_as(there, other) == (float)i);
    }
    assert_true(arrives_as(there, host) == 1);
    assert_true(arrives_as(there, host) == 2); /* once */
    ops->expect(a, SMALL);
    set(host, 3);
    ops->forget();
    assert_true(arrives_as(there, host) == 3);
    ops->forget();
    ops->release(there);
}

/* More is expected than there is room for: the rest comes when it is asked for. */
static void too_much_is_expected(void **state)
{
    (void)state;
    enum { MANY = 100 };
    float *host = malloc(MANY * SMALL * sizeof *host);
    void *there = NULL;
    assert_int_equal(ops->alloc(&there, SMALL * sizeof *host), 0);
    for (int i = 0; i < MANY; i++) {
        set(host + i * SMALL, (float)i);
        ops->expect((struct sq_floats){SQ_F32, host + i * SMALL}, SMALL);
    }
    for (int i = MANY - 1; i >= 0; i--)
        assert_true(arrives_as(there, host + i * SMALL) == (float)i);
    ops->release(there);
    free(host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_waits_are_seen),   cmocka_unit_test(results_wait_for_sync),
        cmocka_unit_test(recordings_run_again),     cmocka_unit_test(floats_go_and_come),
        cmocka_unit_test(buffers_are_used_again),   cmocka_unit_test(what_is_expected_is_there),
        cmocka_unit_test(too_much_is_expected),
    };
    return cmocka_run_group_tests(tests, load, NULL);
}
