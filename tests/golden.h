/* Reading the oracle's golden files in tests: tests/oracle/goldens/NAME.safetensors, whole file in memory.
 * Include after cmocka.h; a golden that is missing or has another layout fails the test. */
#ifndef GOLDEN_H
#define GOLDEN_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sq/base.h"

struct golden {
    char *bytes;
    size_t size, data; /* data: where tensor bytes begin */
    json_t *head;
};

static inline void golden_open(struct golden *g, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "tests/oracle/goldens/%s.safetensors", name);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("cannot open %s (tests run from the root of the repository)", path);
    fseek(f, 0, SEEK_END);
    g->size = (size_t)ftell(f);
    rewind(f);
    g->bytes = malloc(g->size);
    assert_non_null(g->bytes);
    assert_int_equal(fread(g->bytes, 1, g->size, f), g->size);
    fclose(f);
    uint64_t n;
    memcpy(&n, g->bytes, 8);
    assert_true(n <= g->size - 8);
    g->data = 8 + n;
    g->head = json_loadb(g->bytes + 8, n, 0, NULL);
    assert_non_null(g->head);
}

static inline void golden_close(struct golden *g)
{
    json_decref(g->head);
    free(g->bytes);
}

static inline bool golden_has(const struct golden *g, const char *name)
{
    return json_object_get(g->head, name) != NULL;
}

/* Element count, raw bytes and dtype ("F32", "F64", "U8", "I8", "I32"); dim (may be NULL) gets up to 4
 * dimensions. */
static inline const void *golden_raw(const struct golden *g, const char *name, const char **dtype,
                                     int64_t *count, int64_t *dim)
{
    const json_t *t = json_object_get(g->head, name);
    if (!t)
        fail_msg("golden has no tensor '%s'", name);
    *dtype = json_string_value(json_object_get(t, "dtype"));
    const json_t *shape = json_object_get(t, "shape");
    *count = 1;
    for (size_t i = 0; i < json_array_size(shape); i++) {
        const int64_t d = json_integer_value(json_array_get(shape, i));
        *count *= d;
        if (dim && i < 4)
            dim[i] = d;
    }
    return g->bytes + g->data + json_integer_value(json_array_get(json_object_get(t, "data_offsets"), 0));
}

/* A tensor as doubles, whatever its dtype; free() it. n may be NULL. */
static inline double *golden_f64(const struct golden *g, const char *name, int64_t *n)
{
    const char *dtype;
    int64_t count;
    const char *p = golden_raw(g, name, &dtype, &count, NULL);
    double *x = malloc((size_t)(count ? count : 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < count; i++) {
        float f;
        int32_t w;
        if (!strcmp(dtype, "F64")) {
            memcpy(x + i, p + 8 * i, 8);
        } else if (!strcmp(dtype, "F32")) {
            memcpy(&f, p + 4 * i, 4);
            x[i] = (double)f;
        } else if (!strcmp(dtype, "I32")) {
            memcpy(&w, p + 4 * i, 4);
            x[i] = w;
        } else if (!strcmp(dtype, "U8")) {
            x[i] = ((const uint8_t *)p)[i];
        } else if (!strcmp(dtype, "I8")) {
            x[i] = ((const int8_t *)p)[i];
        } else {
            fail_msg("golden tensor '%s' has dtype %s", name, dtype);
        }
    }
    if (n)
        *n = count;
    return x;
}

/* The same as floats; free() it. */
static inline float *golden_f32(const struct golden *g, const char *name, int64_t *n)
{
    int64_t count;
    double *d = golden_f64(g, name, &count);
    float *x = malloc((size_t)(count ? count : 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)d[i];
    free(d);
    if (n)
        *n = count;
    return x;
}

#endif
