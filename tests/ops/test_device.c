/* The device's table beside its operations, on the emulator: failures that stay, workspace, memory, refusals */
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "sq/device.h"

static const struct sq_device *dev;
static struct sq_gpu *gpu;

/* BUILD/lib/sq/libsq_emu.so of BUILD/tests/ops/test_device */
static int load(void **state)
{
    (void)state;
    char exe[PATH_MAX], path[PATH_MAX + 64];
    const ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    assert_true(n > 0);
    exe[n] = 0;
    for (int up = 0; up < 3; up++)
        *strrchr(exe, '/') = 0;
    snprintf(path, sizeof path, "%s/lib/sq/libsq_emu.so", exe);
    setenv("SQ_CUDA_LIB", path, 1);
    if (sq_device_load(&dev, false) < 0) {
        print_error("%s\n", sq_errmsg());
        return -1;
    }
    return 0;
}

static int start(void **state)
{
    (void)state;
    char why[256] = "";
    return dev->open(&gpu, 0, why, sizeof why);
}

static int end(void **state)
{
    (void)state;
    dev->close(&gpu);
    dev->close(&gpu); /* nothing left to close */
    return gpu != NULL;
}

static float *on_device(const float *x, int64_t n)
{
    void *p = NULL;
    assert_int_equal(dev->alloc(gpu, &p, (size_t)n * sizeof *x), 0);
    dev->put(gpu, SQ_QUEUE_WORK, p, x, (size_t)n * sizeof *x);
    return p;
}

static float first_of(const float *x)
{
    float v = 0;
    dev->get(gpu, SQ_QUEUE_WORK, &v, x, sizeof v);
    assert_int_equal(dev->sync(gpu), 0);
    return v;
}

static void devices_have_numbers(void **state)
{
    (void)state;
    char why[256] = "";
    struct sq_gpu *other = NULL;
    struct sq_gpu_info info;
    assert_int_equal(dev->count(why, sizeof why), 2);
    assert_int_equal(dev->open(&other, 2, why, sizeof why), SQ_E_ARG);
    assert_null(other);
    assert_string_equal(why, "there is no device 2, but 2 of them from 0 on");
    assert_int_equal(dev->open(&other, -1, why, sizeof why), SQ_E_ARG);
    assert_int_equal(dev->open(&other, 1, why, sizeof why), 0);
    dev->info(other, &info);
    assert_int_equal(info.capability, 75);
    dev->close(&other);
    assert_null(other);
}

/* The first failure is kept, what comes after it is not done, and all goes on when it is forgotten. */
static void the_first_failure_stays(void **state)
{
    (void)state;
    const float one[2] = {1, 1};
    float *x = on_device(one, 2), *y = on_device(one, 2);
    assert_int_equal(dev->sync(gpu), 0);
    assert_string_equal(dev->error(gpu), "");
    dev->ops->attention(gpu, y, y, x, x, x, 1, 1, 1, 1, 257, false);
    dev->ops->add(gpu, y, x, 2);
    assert_int_equal(dev->sync(gpu), SQ_E_UNSUP);
    assert_string_equal(dev->error(gpu), "attention: heads of 257 channels, at most 256");
    dev->ops->bias_grad(gpu, y, x, 1, 1 << 20); /* another failure, later */
    assert_int_equal(dev->sync(gpu), SQ_E_UNSUP);
    dev->clear(gpu);
    assert_int_equal(dev->sync(gpu), 0);
    assert_true(first_of(y) == 1);
    dev->ops->add(gpu, y, x, 2);
    assert_true(first_of(y) == 2);
    dev->free(gpu, x);
    dev->free(gpu, y);
}

/* On a GPU this would be an error of the device, or worse. */
static void the_hosts_memory_is_seen(void **state)
{
    (void)state;
    float host[4] = {1, 2, 3, 4};
    float *x = on_device(host, 4);
    const struct sq_mat there = {x, 2, false, SQ_F32}, here = {host, 2, false, SQ_F32};
    static const char *const want[] = {"add_elements: argument 2 is memory of the host's", "gemm: memory of the host's",
                                       "copying to memory of the host's", "copying from memory of the host's",
                                       "filling memory of the host's", "fold_groups<0>: argument 2 is memory of the host's"};
    const struct sq_fold_args fold = {.to = x, .w = x, .c = host, .q = {.bits = 16, .rate = 1}, .rows = 2, .cols = 2};
#if defined __clang__ || defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
    const int cases = SQ_COUNT(want) - 1; /* structs are not looked into (gpu.h) */
#else
    const int cases = SQ_COUNT(want);
#endif
    for (int i = 0; i < cases; i++) {
        switch (i) {
        case 0: dev->ops->add(gpu, x, host, 4); break;
        case 1: dev->ops->gemm(gpu, x, 2, there, here, 2, 2, 2, false, false); break;
        case 2: dev->put(gpu, SQ_QUEUE_WORK, host, x, 4); break;
        case 3: dev->get(gpu, SQ_QUEUE_WORK, x, host, 4); break;
        case 4: dev->fill(gpu, SQ_QUEUE_WORK, host, 0, 4); break;
        default: dev->ops->fold(gpu, &fold);
        }
        assert_int_equal(dev->sync(gpu), SQ_E_DEVICE);
        assert_string_equal(dev->error(gpu), want[i]);
        dev->clear(gpu);
    }
    assert_true(first_of(x) == 1);
    dev->free(gpu, x);
}

static void workspace_is_asked_for(void **state)
{
    (void)state;
    const float one[6] = {1, 1, 1, 1, 1, 1};
    float *x = on_device(one, 6), *y = on_device(one, 3);
    dev->ops->bias_grad(gpu, y, x, 2, 3);
    assert_int_equal(dev->sync(gpu), SQ_E_ARG);
    assert_string_equal(dev->error(gpu), "bias_grad needs 12 bytes of workspace, there are 0");
    dev->clear(gpu);
    assert_int_equal(dev->space(gpu, sq_gpu_column_space(3)), 0);
    assert_int_equal(dev->space(gpu, 1), 0); /* never less */
    dev->ops->bias_grad(gpu, y, x, 2, 3);
    assert_int_equal(dev->sync(gpu), 0);
    assert_true(first_of(y) == 3);
    dev->free(gpu, x);
    dev->free(gpu, y);
}

static void bytes_move_between_queues(void **state)
{
    (void)state;
    unsigned char host[300], back[300];
    void *a = NULL, *b = NULL, *pinned = NULL;
    for (int i = 0; i < 300; i++)
        host[i] = (unsigned char)i;
    assert_int_equal(dev->alloc(gpu, &a, 300), 0);
    assert_int_equal(dev->alloc(gpu, &b, 300), 0);
    assert_int_equal(dev->alloc_pinned(gpu, &pinned, 300), 0);
    assert_int_equal((uintptr_t)a % 256, 0);
    memcpy(pinned, host, 300);
    dev->put(gpu, SQ_QUEUE_COPY, a, pinned, 300);
    dev->mark(gpu, 0, SQ_QUEUE_COPY);
    dev->after(gpu, SQ_QUEUE_WORK, 0);
    dev->copy(gpu, SQ_QUEUE_WORK, b, a, 300);
    dev->fill(gpu, SQ_QUEUE_WORK, (char *)b + 100, 7, 100);
    dev->mark(gpu, 0, SQ_QUEUE_WORK);
    dev->after(gpu, SQ_QUEUE_COPY, 0);
    dev->get(gpu, SQ_QUEUE_COPY, back, b, 300);
    assert_int_equal(dev->sync(gpu), 0);
    memset(host + 100, 7, 100);
    assert_memory_equal(back, host, 300);
    dev->free(gpu, a);
    dev->free(gpu, b);
    dev->free_pinned(gpu, pinned);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    const struct sq_codes a = {.cols = 4, .bits = 8}, b = {.cols = 4, .bits = 8}, c = {.cols = 5, .bits = 4};
    struct sq_codes to = {.ld = 4};
    const struct sq_rowq grouped = {.bits = 4, .group = 2, .rate = 1};
    const struct sq_fold_args fold = {.code = &to, .q = grouped, .rows = 1, .cols = 4};
    const struct sq_fold_args rounded = {.q = grouped, .rows = 1, .cols = 4};
    dev->ops->gemm_codes(gpu, NULL, 1, NULL, &a, &b, 1, 1);
    assert_int_equal(dev->sync(gpu), SQ_E_ARG);
    assert_string_equal(dev->error(gpu), "gemm_codes: 4 codes of 8 bits by 4 of 8");
    dev->clear(gpu);
    dev->ops->gemm_codes(gpu, NULL, 1, NULL, &c, &a, 1, 1);
    assert_int_equal(dev->sync(gpu), SQ_E_ARG);
    dev->clear(gpu);
    dev->ops->rowquant_encode(gpu, &to, NULL, &grouped, NULL, NULL, 1, 4);
    assert_int_equal(dev->sync(gpu), SQ_E_ARG);
    dev->clear(gpu);
    dev->ops->fold(gpu, &fold);
    assert_int_equal(dev->sync(gpu), SQ_E_ARG);
    assert_string_equal(dev->error(gpu), "fold: codes of groups of 2, 4 bits");
    dev->clear(gpu);
    dev->ops->fold_grad(gpu, NULL, NULL, NULL, NULL, NULL, NULL, NULL, &rounded);
    assert_int_equal(dev->sync(gpu), SQ_E_ARG);
    assert_string_equal(dev->error(gpu), "fold_grad: without the extremes that the fold found");
}

/* Rows of a linear that come in two pieces: what is summed over rows is added up, the rest is the piece's own. */
static void weights_come_in_pieces(void **state)
{
    (void)state;
    enum { R = 70, K = 5, FIRST = 32 };
    float w[R * K], g[R * K], ones[K + R], zeros[K] = {0}, dc[K], want[K], dr[R];
    for (int i = 0; i < R * K; i++) {
        w[i] = sinf((float)i);
        g[i] = cosf((float)i * 3);
    }
    for (int i = 0; i < K + R; i++)
        ones[i] = 1;
    float *const dw = on_device(g, R * K), *const c = on_device(ones, K), *const sums = on_device(zeros, K);
    float *const rows = on_device(ones, R), *const weight = on_device(w, R * K);
    assert_int_equal(dev->space(gpu, sq_gpu_column_space(5 * K)), 0);
    struct sq_fold_args a = {.w = weight, .w_type = SQ_F32, .c = c, .q = {.bits = 16, .rate = 1}, .rows = FIRST, .cols = K};
    dev->ops->fold_grad(gpu, dw, NULL, NULL, NULL, NULL, sums, rows, &a);
    a.w = weight + FIRST * K;
    a.rows = R - FIRST;
    dev->ops->fold_grad(gpu, dw + FIRST * K, NULL, NULL, NULL, NULL, sums, rows + FIRST, &a);
    dev->get(gpu, SQ_QUEUE_WORK, dc, sums, sizeof dc);
    dev->get(gpu, SQ_QUEUE_WORK, dr, rows, sizeof dr);
    assert_int_equal(dev->sync(gpu), 0);
    for (int j = 0; j < K; j++) {
        want[j] = 0;
        for (int i = 0; i < R; i++)
            want[j] += g[i * K + j] * w[i * K + j];
        assert_true(fabsf(dc[j] - want[j]) < 1e-5f * R);
    }
    for (int i = 0; i < R; i++) {
        float sum = 0;
        for (int j = 0; j < K; j++)
            sum += g[i * K + j] * w[i * K + j];
        assert_true(fabsf(dr[i] - sum) < 1e-5f);
    }
    float *const all[] = {dw, c, sums, rows, weight};
    for (int i = 0; i < SQ_COUNT(all); i++)
        dev->free(gpu, all[i]);
}

/* Products of attention: on tensor cores by the one device, in f32 by the other; not the same sums, and close. With two
 * bf16 an operand not as close. */
static void attention_has_three_ways(void **state)
{
    (void)state;
    enum { T = 40, D = 20, N = T * D };
    float x[4][N], out[3][N];
    char why[256] = "";
    struct sq_gpu *other = NULL;
    assert_int_equal(dev->open(&other, 1, why, sizeof why), 0);
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < N; i++)
            x[k][i] = sinf((float)(i * (k + 2)));
    float *const q = on_device(x[0], N), *const k = on_device(x[1], N), *const v = on_device(x[2], N);
    float *const y = on_device(x[3], N), *const lse = on_device(x[3], T);
    for (int i = 0; i < 3; i++) {
        struct sq_gpu *const one = i == 1 ? other : gpu;
        assert_int_equal(dev->sync(gpu), 0);
        dev->ops->attention(one, y, lse, q, k, v, 1, T, 1, 1, D, i == 2);
        dev->get(one, SQ_QUEUE_WORK, out[i], y, sizeof out[i]);
        assert_int_equal(dev->sync(one), 0);
    }
    assert_memory_not_equal(out[0], out[1], sizeof out[0]);
    float off = 0;
    for (int i = 0; i < N; i++) {
        assert_true(fabsf(out[0][i] - out[1][i]) < 1e-5f);
        off = fmaxf(off, fabsf(out[0][i] - out[2][i]));
    }
    assert_true(off > 2e-7f && off < 3e-5f); /* 2^-15 of values up to 1 */
    float *const all[] = {q, k, v, y, lse};
    for (int i = 0; i < SQ_COUNT(all); i++)
        dev->free(gpu, all[i]);
    dev->close(&other);
}

/* What the backward makes again is what the forward made. */
static void swiglu_comes_twice(void **state)
{
    (void)state;
    enum { N = 300 };
    float x[3][N], y[2][N];
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < N; i++)
            x[k][i] = 3 * sinf((float)(i * (k + 2)));
    float *const gate = on_device(x[0], N), *const up = on_device(x[1], N), *const dy = on_device(x[2], N);
    float *const first = on_device(x[2], N), *const dgate = on_device(x[2], N), *const dup = on_device(x[2], N);
    dev->ops->swiglu(gpu, sq_f32(first), gate, up, N);
    dev->ops->swiglu_grad(gpu, sq_f32(dgate), sq_f32(dup), sq_f32(dy), dy, gate, up, N);
    dev->get(gpu, SQ_QUEUE_WORK, y[0], first, sizeof y[0]);
    dev->get(gpu, SQ_QUEUE_WORK, y[1], dy, sizeof y[1]);
    assert_int_equal(dev->sync(gpu), 0);
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    float *const all[] = {gate, up, dy, first, dgate, dup};
    for (int i = 0; i < SQ_COUNT(all); i++)
        dev->free(gpu, all[i]);
}

/* Four neighbours are loaded at once. */
static void folded_arrays_are_aligned(void **state)
{
    (void)state;
    float x[260] = {0};
    float *const w = on_device(x, 260), *const a = on_device(x, 260), *const b = on_device(x, 4), *const to = on_device(x, 260);
    struct sq_fold_args args = {.w = w, .w_type = SQ_F32, .a = a + 1, .b = b, .rank = 1, .q = {.bits = 2, .rate = 1},
                                .to = to, .to_type = SQ_F32, .rows = 1, .cols = 256};
    dev->ops->fold(gpu, &args);
    assert_true(dev->sync(gpu) < 0);
    assert_string_equal(dev->error(gpu), "fold: an array at an address that is not a multiple of 16");
    float *const all[] = {w, a, b, to};
    for (int i = 0; i < SQ_COUNT(all); i++)
        dev->free(gpu, all[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(swiglu_comes_twice, start, end),
        cmocka_unit_test_setup_teardown(folded_arrays_are_aligned, start, end),
        cmocka_unit_test(devices_have_numbers),
        cmocka_unit_test_setup_teardown(the_first_failure_stays, start, end),
        cmocka_unit_test_setup_teardown(the_hosts_memory_is_seen, start, end),
        cmocka_unit_test_setup_teardown(workspace_is_asked_for, start, end),
        cmocka_unit_test_setup_teardown(bytes_move_between_queues, start, end),
        cmocka_unit_test_setup_teardown(what_does_not_fit_is_refused, start, end),
        cmocka_unit_test_setup_teardown(weights_come_in_pieces, start, end),
        cmocka_unit_test_setup_teardown(attention_has_three_ways, start, end),
    };
    return cmocka_run_group_tests(tests, load, NULL);
}
