#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>

#include "../memstream.h"
#include "sq/hash.h"

static const struct sq_app plain = {.prog = "sq-test", .no_prov = true};

static void put_small(struct sq_stream *out)
{
    const float data[6] = {1, -2, 3.5f, 0, 1e-20f, 7};
    struct sq_tensor t = SQ_TENSOR_INIT;
    json_t *model = json_pack("{s:s, s:{s:i, s:f, s:[b, n, s]}}", "record", "model", "config", "layers", 2, "eps", 1e-5,
                              "odd", 1, "\xc3\xa9");
    assert_int_equal(sq_stream_put(out, model, NULL, 0), 0);
    json_decref(model);
    assert_int_equal(sq_tensor_shape(&t, "w", SQ_F32, 2, (int64_t[]){2, 3}), 0);
    t.data = data;
    assert_int_equal(sq_stream_put_tensor(out, &t, "embedding", 3), 0);
    json_t *odd = json_pack("{s:s, s:I}", "record", "from-the-future", "x", (json_int_t)1 << 40);
    assert_int_equal(sq_stream_put(out, odd, "payload", 7), 0);
    json_decref(odd);
}

/* begin, model, tensor w, an unknown record with payload, end */
static uint8_t *small(size_t *n, const struct sq_app *app)
{
    struct sq_stream *out;
    int fd;
    mem_writer(&out, &fd);
    assert_int_equal(sq_stream_begin(out, NULL, app), 0);
    put_small(out);
    assert_int_equal(sq_stream_finish(&out), 0);
    assert_null(out);
    return mem_bytes(fd, n);
}

/* Reads everything, payloads too when deep; the first failure or 0. */
static int read_all(const uint8_t *bytes, size_t n, bool deep)
{
    struct sq_stream *in;
    struct sq_record rec = SQ_RECORD_INIT;
    struct sq_tensor t = SQ_TENSOR_INIT;
    int rc = mem_reader(&in, bytes, n);
    if (rc < 0)
        return rc;
    while ((rc = sq_stream_next(in, &rec)) > 0)
        if (deep && rec.kind == SQ_REC_TENSOR && (rc = sq_stream_tensor(in, &rec, &t)) < 0)
            break;
    sq_record_release(&rec);
    sq_tensor_release(&t);
    if (rc == 0)
        return sq_stream_finish(&in);
    assert_int_equal(sq_stream_next(in, &rec), rc); /* sticky */
    sq_stream_abort(&in, rc);
    return rc;
}

static void round_trip(void **state)
{
    size_t n;
    uint8_t *bytes = small(&n, &plain);
    struct sq_stream *in;
    struct sq_record rec = SQ_RECORD_INIT;
    struct sq_tensor t = SQ_TENSOR_INIT;
    char payload[7];

    (void)state;
    assert_int_equal(mem_reader(&in, bytes, n), 0);
    assert_int_equal(json_array_size(json_object_get(sq_stream_header(in), "provenance")), 0);
    assert_int_equal(sq_stream_next(in, &rec), 1);
    assert_int_equal(rec.kind, SQ_REC_MODEL);
    json_t *want = json_pack("{s:s, s:{s:i, s:f, s:[b, n, s]}}", "record", "model", "config", "layers", 2, "eps", 1e-5,
                             "odd", 1, "\xc3\xa9");
    assert_true(json_equal(rec.head, want));
    json_decref(want);
    assert_int_equal(sq_stream_next(in, &rec), 1);
    assert_int_equal(rec.kind, SQ_REC_TENSOR);
    assert_int_equal(rec.bytes, 24);
    assert_int_equal(json_integer_value(json_object_get(rec.head, "layer")), 3);
    assert_string_equal(json_string_value(json_object_get(rec.head, "role")), "embedding");
    assert_int_equal(sq_stream_tensor(in, &rec, &t), 0);
    assert_string_equal(t.name, "w");
    assert_int_equal(t.dim[1], 3);
    assert_true(((const float *)t.data)[2] == 3.5f);
    assert_int_equal(sq_stream_next(in, &rec), 1);
    assert_int_equal(rec.kind, SQ_REC_OTHER);
    assert_int_equal(sq_stream_payload(in, payload, 3), 0);
    assert_int_equal(sq_stream_payload(in, payload + 3, 4), 0);
    assert_memory_equal(payload, "payload", 7);
    assert_int_equal(sq_stream_next(in, &rec), 0);
    assert_int_equal(sq_stream_next(in, &rec), 0);
    assert_int_equal(sq_stream_bytes(in), n);
    assert_int_equal(sq_stream_finish(&in), 0);
    sq_tensor_release(&t);
    free(bytes);
}

static void equal_streams_are_equal_bytes(void **state)
{
    size_t n, m;
    uint8_t *a = small(&n, &plain), *b = small(&m, &plain);
    (void)state;
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    free(a);
    free(b);
}

static void every_cut_is_noticed(void **state)
{
    size_t n;
    uint8_t *bytes = small(&n, &plain);
    (void)state;
    assert_int_equal(read_all(bytes, n, true), 0);
    for (size_t cut = 0; cut < n; cut++) {
        assert_int_equal(read_all(bytes, cut, true), SQ_E_TRUNC);
        assert_int_equal(read_all(bytes, cut, false), SQ_E_TRUNC);
    }
    free(bytes);
}

static void every_flipped_bit_is_noticed(void **state)
{
    const struct sq_app app = {.prog = "sq-test"};
    size_t n;
    uint8_t *bytes = small(&n, &app);
    (void)state;
    for (size_t bit = 0; bit < 8 * n; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (read_all(bytes, n, bit % 2) >= 0)
            fail_msg("bit %zu of byte %zu can flip unnoticed", bit % 8, bit / 8);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(read_all(bytes, n, true), 0);
    free(bytes);
}

static void appended_bytes_are_noticed(void **state)
{
    size_t n;
    uint8_t *bytes = small(&n, &plain);
    (void)state;
    bytes = realloc(bytes, n + 1);
    assert_non_null(bytes);
    bytes[n] = 0;
    assert_int_equal(read_all(bytes, n + 1, true), SQ_E_FORMAT);
    free(bytes);
}

/* a filter: copies everything, with provenance */
static uint8_t *filter(const uint8_t *bytes, size_t n, size_t *m, const struct sq_app *app)
{
    struct sq_stream *in, *out;
    struct sq_record rec = SQ_RECORD_INIT;
    int fd, rc;
    assert_int_equal(mem_reader(&in, bytes, n), 0);
    mem_writer(&out, &fd);
    assert_int_equal(sq_stream_begin(out, in, app), 0);
    while ((rc = sq_stream_next(in, &rec)) > 0)
        assert_int_equal(sq_stream_copy(out, in, &rec), 0);
    assert_int_equal(rc, 0);
    assert_int_equal(sq_stream_finish(&in), 0);
    assert_int_equal(sq_stream_finish(&out), 0);
    return mem_bytes(fd, m);
}

static void a_filter_passes_on_and_signs(void **state)
{
    struct sq_app app = {.prog = "sq-one", .seed = 7, .given = json_pack("[s]", "--bits=4")};
    size_t n, m, k;
    uint8_t *a = small(&n, &app);
    app.prog = "sq-two";
    uint8_t *b = filter(a, n, &m, &app);
    struct sq_stream *in;

    (void)state;
    assert_int_equal(mem_reader(&in, b, m), 0);
    const json_t *prov = json_object_get(sq_stream_header(in), "provenance");
    assert_int_equal(json_array_size(prov), 2);
    const json_t *one = json_array_get(prov, 0);
    assert_string_equal(json_string_value(json_object_get(one, "prog")), "sq-one");
    assert_int_equal(json_integer_value(json_object_get(one, "seed")), 7);
    assert_string_equal(json_string_value(json_array_get(json_object_get(one, "argv"), 0)), "--bits=4");
    assert_string_equal(json_string_value(json_object_get(json_array_get(prov, 1), "prog")), "sq-two");
    sq_stream_abort(&in, 0);

    /* the end record names the digest of the input, and no bit of that can flip either */
    assert_int_equal(read_all(b, m, true), 0);
    for (size_t bit = 8 * (m - 120); bit < 8 * m; bit++) {
        b[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(read_all(b, m, true) < 0);
        b[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    const uint8_t *in_digest = memmem(b, m, "in_digest", 9), *xxh3 = memmem(a + n - 40, 40, "xxh3", 4);
    assert_non_null(in_digest);
    assert_non_null(xxh3);
    assert_memory_equal(in_digest + 9, xxh3 + 4, 17);

    /* without provenance a copy is the same bytes */
    uint8_t *c = small(&k, &plain), *d = filter(c, k, &m, &plain);
    assert_int_equal(k, m);
    assert_memory_equal(c, d, k);
    json_decref(app.given);
    free(a);
    free(b);
    free(c);
    free(d);
}

static void payload_in_any_cuts(void **state)
{
    enum { N = 300000 };
    static uint8_t data[N], back[N];
    struct sq_stream *out, *in;
    struct sq_record rec = SQ_RECORD_INIT;
    size_t n[2];
    uint8_t *bytes[2];
    json_t *head = json_pack("{s:s}", "record", "file");

    (void)state;
    for (size_t i = 0; i < N; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    for (int way = 0; way < 2; way++) {
        int fd;
        mem_writer(&out, &fd);
        assert_int_equal(sq_stream_begin(out, NULL, &plain), 0);
        if (way == 0) {
            sq_stream_put(out, head, data, N);
        } else {
            sq_stream_put_head(out, head, N);
            for (size_t i = 0, k = 1; i < N; i += k, k = k * 3 % 70001)
                sq_stream_put_data(out, data + i, SQ_MIN(k, N - i));
        }
        assert_int_equal(sq_stream_finish(&out), 0);
        bytes[way] = mem_bytes(fd, &n[way]);
    }
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(bytes[0], bytes[1], n[0]);
    assert_int_equal(mem_reader(&in, bytes[0], n[0]), 0);
    assert_int_equal(sq_stream_next(in, &rec), 1);
    for (size_t i = 0, k = 1; i < N; i += k, k = k * 5 % 90001)
        assert_int_equal(sq_stream_payload(in, back + i, SQ_MIN(k, N - i)), 0);
    assert_memory_equal(data, back, N);
    assert_int_equal(sq_stream_payload(in, back, 1), SQ_E_ARG);
    sq_record_release(&rec);
    sq_stream_abort(&in, 0);
    json_decref(head);
    free(bytes[0]);
    free(bytes[1]);
}

static void more_than_one_chunk(void **state)
{
    const size_t n = SQ_CHUNK + 1000;
    uint8_t *data = calloc(n, 1), *bytes;
    struct sq_stream *out;
    json_t *head = json_pack("{s:s}", "record", "file");
    size_t m;
    int fd, chunks = 0;

    (void)state;
    assert_non_null(data);
    memset(data + SQ_CHUNK - 3, 5, 6);
    mem_writer(&out, &fd);
    assert_int_equal(sq_stream_begin(out, NULL, &plain), 0);
    assert_int_equal(sq_stream_put(out, head, data, n), 0);
    assert_int_equal(sq_stream_finish(&out), 0);
    bytes = mem_bytes(fd, &m);
    for (const uint8_t *p = bytes; (p = memmem(p, m - (size_t)(p - bytes), "chunk", 5)); p++)
        chunks++;
    assert_int_equal(chunks, 2);
    assert_int_equal(read_all(bytes, m, true), 0);
    bytes[m / 2] ^= 1;
    assert_int_equal(read_all(bytes, m, true), SQ_E_FORMAT);
    assert_non_null(strstr(sq_errmsg(), "chunk"));
    json_decref(head);
    free(data);
    free(bytes);
}

/* ---- hostile bytes behind a good begin record ---- */

static const char begin_bytes[] = "\x84\xa6record\xa5" "begin\xa5magic\xa2sq\xa7version\x92\x01\x00\xaaprovenance\x90";

static int read_after_begin(const char *tail, size_t n)
{
    const size_t m = sizeof begin_bytes - 1;
    uint8_t *bytes = malloc(m + n);
    assert_non_null(bytes);
    memcpy(bytes, begin_bytes, m);
    memcpy(bytes + m, tail, n);
    const int rc = read_all(bytes, m + n, true);
    free(bytes);
    return rc;
}

#define HOSTILE(tail) read_after_begin(tail, sizeof(tail) - 1)

static void hostile_headers(void **state)
{
    (void)state;
    assert_int_equal(HOSTILE(""), SQ_E_TRUNC);
    assert_int_equal(HOSTILE("\x93"), SQ_E_FORMAT);                                    /* not a map */
    assert_int_equal(HOSTILE("\xc1"), SQ_E_FORMAT);                                    /* a byte that is no type */
    assert_int_equal(HOSTILE("\x81\xa1" "a\x01"), SQ_E_FORMAT);                        /* no record member */
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa6record\xa1x"), SQ_E_FORMAT);      /* twice */
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\x01\x01"), SQ_E_FORMAT);             /* key is a number */
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa1" "d\xc4\x01z"), SQ_E_FORMAT);    /* bin */
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa1" "d\xd4\x01z"), SQ_E_FORMAT);    /* ext */
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa1" "d\xa2\xff\xfe"), SQ_E_FORMAT); /* not UTF-8 */
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa1" "d\xa3" "a\0b"), SQ_E_FORMAT);  /* zero byte */
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa1" "d\xca\x7f\xc0\0\0"), SQ_E_FORMAT); /* NaN */
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa1" "d\xcf\xff\xff\xff\xff\xff\xff\xff\xff"), SQ_E_FORMAT); /* 2^64-1 */
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa1" "d\xdb\xff\xff\xff\xff"), SQ_E_FORMAT); /* 4 GiB string */
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa1" "d\xdd\xff\xff\xff\xff"), SQ_E_TRUNC);  /* 4 G elements */
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa5" "bytes\xff"), SQ_E_FORMAT);     /* bytes: -1 */
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa5" "bytes\xa1" "9"), SQ_E_FORMAT);
    assert_int_equal(HOSTILE("\x82\xa6record\xa5" "begin\xa1" "a\x01"), SQ_E_FORMAT);  /* a second begin */
    assert_int_equal(HOSTILE("\x81\xa6record\xa5" "chunk"), SQ_E_FORMAT);              /* nobody announced it */
    /* a payload that is missing, too long, empty, without digest, of a wrong kind */
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa5" "bytes\x04\x81\xa6record\xa1y"), SQ_E_FORMAT);
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa5" "bytes\x04\x82\xa6record\xa5" "chunk\xa4" "data\xc4\x05zzzzz"), SQ_E_FORMAT);
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa5" "bytes\x04\x82\xa6record\xa5" "chunk\xa4" "data\xc4\x00"), SQ_E_FORMAT);
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa5" "bytes\x04\x82\xa6record\xa5" "chunk\xa4" "data\xc4\x04zzzz"), SQ_E_FORMAT);
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa5" "bytes\x04\x82\xa6record\xa5" "chunk\xa4" "data\xc6\xff\xff\xff\xff"), SQ_E_FORMAT);
    assert_int_equal(HOSTILE("\x82\xa6record\xa1x\xa5" "bytes\x04\x82\xa6record\xa5" "abort\xa4text\xa4 why"), SQ_E_ABORTED);
    /* tensors: 2^60 elements, wrong size, five dimensions */
    assert_int_equal(HOSTILE("\x85\xa6record\xa6tensor\xa4name\xa1t\xa5" "dtype\xa3" "f32\xa5shape\x91\xcf\x10\0\0\0\0\0\0\0"
                             "\xa5" "bytes\xcf\x3f\0\0\0\0\0\0\0"), SQ_E_FORMAT);
    assert_int_equal(HOSTILE("\x85\xa6record\xa6tensor\xa4name\xa1t\xa5" "dtype\xa3" "f32\xa5shape\x91\x02\xa5" "bytes\x07"), SQ_E_FORMAT);
    assert_int_equal(HOSTILE("\x85\xa6record\xa6tensor\xa4name\xa1t\xa5" "dtype\xa3" "f32\xa5shape\x95\x01\x01\x01\x01\x01\xa5"
                             "bytes\x04"), SQ_E_FORMAT);
    assert_int_equal(HOSTILE("\x85\xa6record\xa6tensor\xa4name\xa1t\xa5" "dtype\xa3" "f99\xa5shape\x91\x01\xa5" "bytes\x04"), SQ_E_UNSUP);
    /* 2^40 floats that the file does not have: refused before memory is asked for */
    assert_int_equal(HOSTILE("\x85\xa6record\xa6tensor\xa4name\xa1t\xa5" "dtype\xa3" "f32\xa5shape\x91\xcf\0\0\1\0\0\0\0\0"
                             "\xa5" "bytes\xcf\0\0\4\0\0\0\0\0"), SQ_E_TRUNC);
}

static void deep_nesting(void **state)
{
    char tail[200] = "\x82\xa6record\xa1x\xa1" "d";
    const size_t at = 12;
    (void)state;
    memset(tail + at, '\x91', 30);
    tail[at + 30] = 1; /* the map, 30 arrays and a number: 32 deep */
    assert_int_equal(read_after_begin(tail, at + 31), SQ_E_TRUNC);
    memset(tail + at, '\x91', 31);
    tail[at + 31] = 1;
    assert_int_equal(read_after_begin(tail, at + 32), SQ_E_FORMAT);
    assert_non_null(strstr(sq_errmsg(), "nested deeper"));
}

static void too_many_values(void **state)
{
    const size_t n = (1 << 20) + 100;
    char *tail = malloc(n + 20);
    (void)state;
    assert_non_null(tail);
    memcpy(tail, "\x82\xa6record\xa1x\xa1" "d\xdd\x00\xff\xff\xff", 17);
    memset(tail + 17, 0xc0, n);
    assert_int_equal(read_after_begin(tail, n + 17), SQ_E_FORMAT);
    assert_non_null(strstr(sq_errmsg(), "values"));
    free(tail);
}

static void any_width_is_read(void **state)
{
    /* the same header with map 32, str 32, uint 64 and int 8 */
    static const char wide[] = "\xdf\0\0\0\2\xdb\0\0\0\6record\xda\0\1x\xd9\1v\x93\xcf\0\0\0\0\0\0\0\5\xd0\xfb\xd3\xff\xff\xff\xff\xff\xff\xff\xfb";
    const size_t m = sizeof begin_bytes - 1;
    uint8_t bytes[200];
    struct sq_stream *in;
    struct sq_record rec = SQ_RECORD_INIT;
    (void)state;
    memcpy(bytes, begin_bytes, m);
    memcpy(bytes + m, wide, sizeof wide - 1);
    assert_int_equal(mem_reader(&in, bytes, m + sizeof wide - 1), 0);
    assert_int_equal(sq_stream_next(in, &rec), 1);
    json_t *want = json_pack("{s:s, s:[i,i,i]}", "record", "x", "v", 5, -5, -5);
    assert_true(json_equal(rec.head, want));
    json_decref(want);
    sq_record_release(&rec);
    sq_stream_abort(&in, 0);
}

static void other_versions(void **state)
{
    uint8_t bytes[sizeof begin_bytes];
    (void)state;
    memcpy(bytes, begin_bytes, sizeof begin_bytes);
    uint8_t *version = (uint8_t *)memmem(bytes, sizeof bytes, "version", 7) + 8;
    version[1] = 9; /* a later minor version is read */
    assert_int_equal(read_all(bytes, sizeof bytes - 1, true), SQ_E_TRUNC);
    version[0] = 2;
    assert_int_equal(read_all(bytes, sizeof bytes - 1, true), SQ_E_UNSUP);
    assert_int_equal(read_all((const uint8_t *)"PK\3\4 not a stream", 18, true), SQ_E_FORMAT);
    assert_int_equal(read_all((const uint8_t *)"", 0, true), SQ_E_TRUNC);
}

static void abort_arrives_with_its_text(void **state)
{
    const struct sq_app app = {.prog = "sq-load"};
    struct sq_stream *out;
    size_t n;
    int fd;

    (void)state;
    for (int when = 0; when < 2; when++) { /* before anything was written; after some records */
        mem_writer(&out, &fd);
        if (when) {
            assert_int_equal(sq_stream_begin(out, NULL, &app), 0);
            put_small(out);
        }
        sq_stream_abort(&out, sq_fail(SQ_E_FORMAT, "tensor 'x' is odd"));
        assert_null(out);
        assert_string_equal(sq_errmsg(), "tensor 'x' is odd");
        uint8_t *bytes = mem_bytes(fd, &n);
        assert_int_equal(read_all(bytes, n, true), SQ_E_ABORTED);
        assert_string_equal(sq_errmsg(), when ? "sq-load failed: tensor 'x' is odd" : "upstream failed: tensor 'x' is odd");
        free(bytes);
    }
    /* inside a chunk nothing can be said: the reader sees the end */
    mem_writer(&out, &fd);
    json_t *head = json_pack("{s:s}", "record", "file");
    assert_int_equal(sq_stream_begin(out, NULL, &app), 0);
    assert_int_equal(sq_stream_put_head(out, head, 10), 0);
    assert_int_equal(sq_stream_put_data(out, "abc", 3), 0);
    sq_stream_abort(&out, SQ_E_IO);
    uint8_t *bytes = mem_bytes(fd, &n);
    assert_int_equal(read_all(bytes, n, true), SQ_E_TRUNC);
    free(bytes);
    json_decref(head);
}

static void misuse_is_an_error(void **state)
{
    struct sq_stream *out, *in;
    json_t *head = json_pack("{s:s}", "record", "file");
    json_t *end = json_pack("{s:s}", "record", "end");
    size_t n;
    int fd;

    (void)state;
    mem_writer(&out, &fd);
    assert_int_equal(sq_stream_put(out, head, NULL, 0), SQ_E_ARG); /* no begin */
    assert_int_equal(sq_stream_finish(&out), SQ_E_ARG);
    assert_null(out);
    sq_stream_abort(&out, 0);
    close(fd);
    mem_writer(&out, &fd);
    assert_int_equal(sq_stream_begin(out, NULL, &plain), 0);
    assert_int_equal(sq_stream_put_head(out, head, 4), 0);
    assert_int_equal(sq_stream_finish(&out), SQ_E_ARG); /* payload missing */
    uint8_t *bytes = mem_bytes(fd, &n);
    assert_int_equal(read_all(bytes, n, true), SQ_E_ABORTED);
    free(bytes);
    mem_writer(&out, &fd);
    assert_int_equal(sq_stream_begin(out, NULL, &plain), 0);
    assert_int_equal(sq_stream_put(out, end, NULL, 0), SQ_E_ARG);
    sq_stream_abort(&out, 0);
    close(fd);
    bytes = small(&n, &plain);
    assert_int_equal(mem_reader(&in, bytes, n), 0);
    assert_int_equal(sq_stream_finish(&in), SQ_E_ARG); /* not read to the end */
    free(bytes);
    json_decref(head);
    json_decref(end);
}

static void files_appear_when_complete(void **state)
{
    char dir[] = "/tmp/sq-stream-XXXXXX", path[64], temp[96];
    struct sq_stream *out, *in;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/a.sq", dir);
    snprintf(temp, sizeof temp, "%s.sq-tmp-%ld", path, (long)getpid());
    for (int ok = 0; ok < 2; ok++) {
        assert_int_equal(sq_stream_open(&out, path, SQ_WRITE), 0);
        assert_int_equal(sq_stream_begin(out, NULL, &plain), 0);
        put_small(out);
        assert_int_not_equal(access(path, F_OK), 0);
        if (ok)
            assert_int_equal(sq_stream_finish(&out), 0);
        else
            sq_stream_abort(&out, SQ_E_FORMAT);
        assert_int_equal(access(path, F_OK) == 0, ok);
        assert_int_not_equal(access(temp, F_OK), 0);
    }
    assert_int_equal(truncate(path, 150), 0);
    assert_int_equal(sq_stream_open(&in, path, SQ_READ), 0);
    struct sq_record rec = SQ_RECORD_INIT;
    int rc;
    while ((rc = sq_stream_next(in, &rec)) > 0)
        ;
    assert_int_equal(rc, SQ_E_TRUNC);
    assert_non_null(strstr(sq_errmsg(), "a.sq': input ended inside "));
    sq_stream_abort(&in, rc);
    unlink(path);
    rmdir(dir);
    assert_int_equal(sq_stream_open(&out, path, SQ_WRITE), SQ_E_IO);
    assert_int_equal(sq_stream_open(&out, "fd:", SQ_WRITE), SQ_E_ARG);
    assert_int_equal(sq_stream_open(&out, "fd:99", SQ_WRITE), SQ_E_ARG);
    assert_int_equal(sq_stream_open(&out, "fd:1x", SQ_WRITE), SQ_E_ARG);
    assert_int_equal(sq_stream_open(&out, "tcp://x", SQ_WRITE), SQ_E_ARG);
    assert_null(out);
}

static void a_full_disk_is_an_error(void **state)
{
    struct sq_stream *out;
    (void)state;
    assert_int_equal(sq_stream_open(&out, "/dev/full", SQ_WRITE), 0);
    assert_int_equal(sq_stream_begin(out, NULL, &plain), SQ_E_IO);
    assert_int_equal(sq_stream_finish(&out), SQ_E_IO);
    assert_int_equal(access("/dev/full", F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(equal_streams_are_equal_bytes),
        cmocka_unit_test(every_cut_is_noticed),
        cmocka_unit_test(every_flipped_bit_is_noticed),
        cmocka_unit_test(appended_bytes_are_noticed),
        cmocka_unit_test(a_filter_passes_on_and_signs),
        cmocka_unit_test(payload_in_any_cuts),
        cmocka_unit_test(more_than_one_chunk),
        cmocka_unit_test(hostile_headers),
        cmocka_unit_test(deep_nesting),
        cmocka_unit_test(too_many_values),
        cmocka_unit_test(any_width_is_read),
        cmocka_unit_test(other_versions),
        cmocka_unit_test(abort_arrives_with_its_text),
        cmocka_unit_test(misuse_is_an_error),
        cmocka_unit_test(files_appear_when_complete),
        cmocka_unit_test(a_full_disk_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
