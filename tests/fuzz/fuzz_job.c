/* A job file, valid at first, spoiled as the input's bytes say and with its digests made anew (they would stop most mutations
 * of its bytes): other members, values, payloads, orders of records. It must be learned or refused; what was learned is a stream. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../tiny_stream.h"
#include "sq/engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { EDIT = 5, EDITS = 8 }; /* record, member, what, two bytes of value */

static const struct tiny TINY = {.layers = 2, .samples = 2, .length = 4, .heldout = 1, .hidden = 16, .ffn = 24, .vocab = 16, .seed = 1};
static const struct sq_app app = {.prog = "fuzz", .no_prov = true};
static int job = -1; /* a memfd with the good one */

static int memory(void)
{
    const int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0)
        abort();
    return fd;
}

/* The stream takes a descriptor of its own. */
static int open_fd(struct sq_stream **s, int fd, enum sq_dir dir)
{
    char spec[32];
    const int copy = dup(fd);
    lseek(copy, 0, SEEK_SET);
    snprintf(spec, sizeof spec, "fd:%d", copy);
    return sq_stream_open(s, spec, dir);
}

static int plan_of(struct sq_plan *plan, const struct sq_window_opts *more)
{
    struct sq_window_opts o = *more;
    o.scheme = "W4A16";
    o.schedule = "blocks:1";
    o.epochs = 1;
    return sq_plan_make(plan, &o, 0);
}

/* Layer 0 of the model as a job, into the memfd. */
static int make_job(const char *dir)
{
    struct sq_app a = app;
    struct sq_window_opts o = SQ_WINDOW_OPTS_INIT;
    struct sq_plan plan;
    struct sq_stream *in = NULL, *out = NULL;
    struct sq_record rec = SQ_RECORD_INIT;
    char model[128], jobs[128], file[160];
    int rc;
    snprintf(model, sizeof model, "%s/model", dir);
    snprintf(jobs, sizeof jobs, "%s/jobs", dir);
    snprintf(file, sizeof file, "%s/000-000.sq", jobs);
    o.jobs = jobs;
    a.given = json_array();
    SQ_TRY(tiny_write(model, &TINY));
    SQ_TRY(plan_of(&plan, &o));
    SQ_TRY(sq_stream_open(&in, model, SQ_READ));
    SQ_TRY(sq_window_jobs(in, &plan, &a, jobs));
    SQ_TRY(sq_stream_finish(&in));
    job = memory();
    SQ_TRY(sq_stream_open(&in, file, SQ_READ));
    SQ_TRY(open_fd(&out, job, SQ_WRITE));
    SQ_TRY(sq_stream_begin(out, NULL, &app));
    while ((rc = sq_stream_next(in, &rec)) > 0)
        SQ_TRY(sq_stream_copy(out, in, &rec));
    SQ_TRY(sq_stream_finish(&in));
    SQ_TRY(sq_stream_finish(&out));
out:
    sq_stream_abort(&in, rc);
    sq_stream_abort(&out, rc);
    json_decref(a.given);
    return rc;
}

static void prepare(void)
{
    char dir[] = "/tmp/sq-fuzz-XXXXXX", command[64];
    omp_set_num_threads(1); /* nothing here is large enough for two */
    sq_log_set("fuzz", SQ_ERROR);
    if (!mkdtemp(dir) || make_job(dir) < 0) {
        fprintf(stderr, "fuzz_job: %s\n", sq_errmsg());
        abort();
    }
    snprintf(command, sizeof command, "rm -r %s", dir);
    if (system(command) != 0)
        abort();
}

static json_t *strange(uint8_t kind, uint8_t x)
{
    static const json_int_t edge[] = {0, -1, 1, 2, 3, 255, 1023, 1024, 65536, INT32_MAX, INT64_MAX, INT64_MIN};
    switch (kind % 8) {
    case 0: return json_integer(edge[x % SQ_COUNT(edge)]);
    case 1: return json_integer(x);
    case 2: return json_real(x / 16.0 - 4);
    case 3: return json_string(x % 2 ? "" : "layer");
    case 4: return json_pack("[i, i]", x, x / 2);
    case 5: return json_object();
    case 6: return json_boolean(x % 2);
    default: return json_null();
    }
}

/* Member number i of an object, those of the objects inside it counted too, becomes something else or goes. */
static void spoil_head(json_t *o, uint8_t i, const uint8_t e[EDIT])
{
    json_t *value = NULL;
    const char *key = NULL;
    size_t n = json_object_size(o), at = 0;
    if (n == 0)
        return;
    json_object_foreach(o, key, value)
        if (at++ == i % n)
            break;
    if (json_is_object(value) && json_object_size(value) && e[2] & 64)
        spoil_head(value, (uint8_t)(i / n), e);
    else if (e[2] & 128)
        json_object_del(o, key);
    else
        json_object_set_new(o, key, strange(e[3], e[4]));
}

static void spoil_payload(uint8_t *p, int64_t n, const uint8_t e[EDIT])
{
    static const uint32_t odd[] = {0x7fc00000, 0x7f800000, 0xff800000, 0x7f7fffff, 0x00000001, 0x80000000, 0x5f000000, 0};
    for (int64_t i = e[4] & 1 ? 0 : e[1] * 4; i + 4 <= n; i += e[4] & 1 ? 4 : n)
        memcpy(p + i, &odd[e[3] % SQ_COUNT(odd)], 4);
}

/* One record with what the edits say of it. */
static int pass_on(struct sq_stream *out, struct sq_stream *in, struct sq_record *rec, uint8_t at, const uint8_t *edit, size_t edits)
{
    int64_t bytes = rec->bytes;
    int rc, times = 1;
    uint8_t *payload = calloc(1, (size_t)bytes + 256);
    if (!payload)
        abort();
    SQ_TRY(bytes ? sq_stream_payload(in, payload, (size_t)bytes) : 0);
    for (const uint8_t *e = edit; e < edit + edits * EDIT; e += EDIT) {
        if (e[0] % 32 != at)
            continue;
        switch (e[2] % 8) {
        case 0: times = 0; break;
        case 1: times = 2; break;
        case 2: bytes = SQ_MAX(bytes - e[4], 0); break;
        case 3: bytes = rec->bytes + e[4]; break;
        case 4: spoil_payload(payload, rec->bytes, e); break;
        default: spoil_head(rec->head, e[1], e);
        }
    }
    for (; times; times--)
        SQ_TRY(sq_stream_put(out, rec->head, payload, (size_t)bytes));
    rc = 0;
out:
    free(payload);
    return rc;
}

static int spoil(int to, const uint8_t *edit, size_t edits)
{
    struct sq_stream *in = NULL, *out = NULL;
    struct sq_record rec = SQ_RECORD_INIT;
    int rc;
    SQ_TRY(open_fd(&in, job, SQ_READ));
    SQ_TRY(open_fd(&out, to, SQ_WRITE));
    SQ_TRY(sq_stream_begin(out, NULL, &app));
    for (uint8_t at = 0; (rc = sq_stream_next(in, &rec)) > 0; at++)
        SQ_TRY(pass_on(out, in, &rec, at, edit, edits));
    SQ_TRY(sq_stream_finish(&out));
out:
    sq_record_release(&rec);
    sq_stream_abort(&in, rc);
    sq_stream_abort(&out, rc);
    return rc;
}

static int learn(int to, int from)
{
    struct sq_app a = app;
    struct sq_window_opts o = SQ_WINDOW_OPTS_INIT;
    struct sq_plan plan;
    struct sq_stream *in = NULL, *out = NULL;
    int rc;
    o.job = "fuzz";
    SQ_TRY(plan_of(&plan, &o));
    SQ_TRY(open_fd(&in, from, SQ_READ));
    SQ_TRY(open_fd(&out, to, SQ_WRITE));
    SQ_TRY(sq_window_passes(out, in, &plan, &a));
    SQ_TRY(sq_stream_finish(&in));
    SQ_TRY(sq_stream_finish(&out));
out:
    sq_stream_abort(&in, rc);
    sq_stream_abort(&out, rc);
    return rc;
}

static void must_be_whole(int fd)
{
    struct sq_stream *in = NULL;
    struct sq_record rec = SQ_RECORD_INIT;
    int rc = open_fd(&in, fd, SQ_READ);
    while (rc == 0 && (rc = sq_stream_next(in, &rec)) > 0)
        rc = 0;
    if (rc < 0)
        abort();
    sq_record_release(&rec);
    sq_stream_abort(&in, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (job < 0)
        prepare();
    const int in = memory(), out = memory();
    const size_t edits = SQ_MIN(n / EDIT, (size_t)EDITS);
    const int rc = spoil(in, data, edits) < 0 ? -1 : learn(out, in);
    if (rc == 0)
        must_be_whole(out);
    else if (edits == 0) { /* the good one is learned */
        fprintf(stderr, "fuzz_job: %s\n", sq_errmsg());
        abort();
    }
    close(in);
    close(out);
    return 0;
}
