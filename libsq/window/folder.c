#include "folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "sq/fault.h"
#include "sq/json.h"
#include "sq/params.h"

enum { FOLDER_PATH = 4096 };

struct folder {
    const char *dir;
    const struct sq_app *app;
    json_t *made; /* what decides the bytes, but for the input */
    int lock;
    int64_t found, bytes; /* files, when it was opened */
};

json_t *folder_made(const struct folder *f)
{
    return json_copy(f->made);
}

static int compare(const json_t *said, const json_t *mine, const char *path)
{
    char what[FOLDER_PATH + 2];
    snprintf(what, sizeof what, "'%s'", path);
    const int rc = made_compare(said, mine, what);
    return rc < 0 ? sq_fail(rc, "%s: repeat the command that began it, or give another --work folder", sq_errmsg()) : 0;
}

/* ---- one file ---- */

static void path_of(char path[FOLDER_PATH], const struct folder *f, int stage, int64_t window)
{
    snprintf(path, FOLDER_PATH, "%.4000s/stage-%03d-window-%04" PRId64 ".sq", f->dir, stage + 1, window);
}

/* Files appear when they are complete, so whoever reads half of one must hear of it. SQ_E_FORMAT, whatever the reader
 * said: it is no input that was cut, which would be exit status 3. */
static int damaged(int rc, const char *path)
{
    if (rc != SQ_E_FORMAT && rc != SQ_E_TRUNC && rc != SQ_E_ABORTED)
        return rc;
    return sq_fail_in(SQ_E_FORMAT, "'%s' is damaged; remove it and its window is learned again", path);
}

/* Of the work record what the file was made of, then the window record; new references. */
static int read_heads(json_t **made, json_t **window, struct sq_stream *in)
{
    struct sq_record rec = SQ_RECORD_INIT;
    const char *name;
    int rc;
    SQ_TRY(sq_stream_next(in, &rec));
    if (rc == 0 || sq_json_str(&name, rec.head, "record") < 0 || strcmp(name, "work") != 0)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "there is no work record"));
    SQ_TRY(sq_json_object(made, rec.head, "made"));
    json_incref(*made);
    SQ_TRY(sq_stream_next(in, &rec));
    if (rc == 0 || rec.kind != SQ_REC_WINDOW)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "there is no window record"));
    *window = json_incref(rec.head);
    rc = 0;
out:
    sq_record_release(&rec);
    return rc;
}

static int take_values(struct sq_params *p, const struct sq_layer *l)
{
    if (l->ntensor != p->nparam)
        return sq_fail(SQ_E_FORMAT, "layer %" PRId64 " has %" PRId64 " parameters, not %" PRId64, l->index, l->ntensor,
                       p->nparam);
    for (int64_t i = 0; i < p->nparam; i++) {
        const struct sq_param *q = &p->param[i];
        const struct sq_tensor *t = sq_layer_find(l, q->name);
        if (!t || t->dtype != SQ_F32 || sq_tensor_count(t) != q->n)
            return sq_fail(SQ_E_FORMAT, "layer %" PRId64 " has no '%s' of %" PRId64 " f32 numbers", l->index, q->name,
                           q->n);
        memcpy(q->x, t->data, (size_t)q->n * sizeof *q->x);
    }
    return 0;
}

static int read_layers(struct sq_stream *in, const struct finished *w)
{
    struct sq_record rec = SQ_RECORD_INIT;
    struct sq_layer l = SQ_LAYER_INIT;
    int rc = 0;
    for (int64_t i = 0; i < w->n; i++) {
        SQ_TRY(sq_stream_next(in, &rec));
        if (rc == 0)
            SQ_TRY(sq_fail(SQ_E_FORMAT, "layer %" PRId64 " is missing", w->first + i));
        SQ_TRY(sq_layer_read(&l, in, &rec));
        if (l.index != w->first + i)
            SQ_TRY(sq_fail(SQ_E_FORMAT, "layer %" PRId64 " where layer %" PRId64 " should come", l.index, w->first + i));
        SQ_TRY(take_values(w->p[i], &l));
    }
    SQ_TRY(sq_stream_next(in, &rec));
    if (rc > 0)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "something follows its last layer"));
out:
    sq_layer_release(&l);
    sq_record_release(&rec);
    return rc;
}

bool folder_has(const struct folder *f, const struct finished *w)
{
    char path[FOLDER_PATH];
    path_of(path, f, w->stage, w->window);
    return access(path, F_OK) == 0;
}

int folder_restore(json_t **record, const struct folder *f, const struct finished *w)
{
    char path[FOLDER_PATH];
    struct sq_stream *in = NULL;
    json_t *made = NULL;
    int rc;
    *record = NULL;
    if (!folder_has(f, w))
        return 0;
    path_of(path, f, w->stage, w->window);
    SQ_TRY(sq_stream_open(&in, path, SQ_READ));
    SQ_TRY(read_heads(&made, record, in));
    SQ_TRY(compare(made, w->made, path));
    SQ_TRY(read_layers(in, w));
    SQ_TRY(sq_stream_finish(&in));
    rc = 1;
out:
    json_decref(made);
    if (rc < 0)
        json_decref(*record);
    if (rc < 0)
        *record = NULL;
    sq_stream_abort(&in, rc);
    return damaged(rc, path);
}

static int write_heads(struct sq_stream *out, const struct finished *w, const json_t *record)
{
    json_t *head = json_pack("{s:s, s:I, s:I, s:I, s:f, s:O}", "record", "work", "window", (json_int_t)w->window, "first",
                             (json_int_t)w->first, "last", (json_int_t)(w->first + w->n - 1), "rate", w->scheme.rate,
                             "made", w->made);
    int rc = head ? sq_stream_put(out, head, NULL, 0) : sq_fail(SQ_E_NOMEM, "no memory for a work record");
    json_decref(head);
    return rc < 0 ? rc : sq_stream_put(out, record, NULL, 0);
}

static int write_layer(struct sq_stream *out, const struct finished *w, int64_t i)
{
    struct sq_layer l = SQ_LAYER_INIT;
    int rc;
    l.index = w->first + i;
    l.state = SQ_LEARNING;
    SQ_TRY(sq_scheme_to_json(&l.scheme, &w->scheme));
    SQ_TRY(sq_params_store(&l, w->p[i], w->cfg));
    SQ_TRY(sq_layer_write(out, &l));
out:
    sq_layer_release(&l);
    return rc;
}

int folder_save(const struct folder *f, const struct finished *w, const json_t *record)
{
    char path[FOLDER_PATH];
    struct sq_stream *out = NULL;
    int rc;
    path_of(path, f, w->stage, w->window);
    SQ_TRY(sq_stream_open(&out, path, SQ_WRITE));
    SQ_TRY(sq_stream_begin(out, NULL, f->app));
    SQ_TRY(write_heads(out, w, record));
    for (int64_t i = 0; i < w->n; i++)
        SQ_TRY(write_layer(out, w, i));
    SQ_TRY(sq_stream_finish(&out));
out:
    sq_stream_abort(&out, rc);
    return rc;
}

/* ---- the folder ---- */

/* A lock on a file goes with its process, however that ends. */
static int lock(struct folder *f)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char path[FOLDER_PATH];
    snprintf(path, sizeof path, "%.4000s/lock", f->dir);
    f->lock = sq_fault(SQ_FAULT_OPEN) ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (f->lock < 0)
        return sq_fail(SQ_E_IO, "cannot write in folder '%s': %s; name another one", f->dir, strerror(errno));
    if (fcntl(f->lock, F_SETLK, &whole) == 0)
        return 0;
    if (errno != EACCES && errno != EAGAIN)
        return sq_fail(SQ_E_IO, "cannot lock '%s': %s", path, strerror(errno));
    whole.l_type = F_WRLCK;
    const bool known = fcntl(f->lock, F_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
    return sq_fail(SQ_E_ARG, "process %ld works in folder '%s'; wait for its end or give another --work folder",
                   known ? (long)whole.l_pid : -1L, f->dir);
}

/* Content, then the part of the origin that is known before any input is. */
static int check_file(struct folder *f, const char *path)
{
    struct sq_record rec = SQ_RECORD_INIT;
    struct sq_stream *in = NULL;
    json_t *made = NULL, *window = NULL;
    int rc;
    SQ_TRY(sq_stream_open(&in, path, SQ_READ));
    SQ_TRY(read_heads(&made, &window, in));
    while ((rc = sq_stream_next(in, &rec)) > 0)
        ;
    if (rc < 0)
        goto out;
    f->found++;
    f->bytes += sq_stream_bytes(in);
    SQ_TRY(sq_stream_finish(&in));
    SQ_TRY(compare(made, f->made, path));
out:
    json_decref(window);
    json_decref(made);
    sq_record_release(&rec);
    sq_stream_abort(&in, rc);
    return damaged(rc, path);
}

static int check_files(struct folder *f)
{
    char path[FOLDER_PATH];
    int64_t window;
    int stage, end, rc = 0;
    DIR *d = sq_fault(SQ_FAULT_OPEN) ? NULL : opendir(f->dir);
    if (!d)
        return sq_fail(SQ_E_IO, "cannot read folder '%s': %s", f->dir, strerror(errno));
    for (const struct dirent *e; rc == 0 && (e = readdir(d));) {
        end = 0;
        if (sscanf(e->d_name, "stage-%3d-window-%4" SCNd64 ".sq%n", &stage, &window, &end) != 2 || !end || e->d_name[end])
            continue;
        snprintf(path, sizeof path, "%.3800s/%.255s", f->dir, e->d_name);
        rc = check_file(f, path);
    }
    closedir(d);
    if (rc == 0 && f->found)
        sq_log(SQ_INFO, "'%s' holds %" PRId64 " finished windows: they are not learned again", f->dir, f->found);
    return rc;
}

int64_t folder_bytes(const struct folder *f)
{
    return f ? f->bytes : 0;
}

int folder_open(struct folder **out, const struct sq_plan *p, const struct sq_app *app)
{
    const struct sq_ops *ops;
    struct folder *f = NULL;
    int rc;
    *out = NULL;
    if (!p->work || !p->needs_acts)
        return 0;
    SQ_TRY(sq_ops_of(&ops, app, (enum sq_precision)app->precision));
    SQ_TRY(sq_alloc(&f, 1));
    f->dir = p->work;
    f->app = app;
    f->lock = -1;
    SQ_TRY(made_of(&f->made, p, ops));
    SQ_TRY(lock(f));
    SQ_TRY(check_files(f));
    *out = f;
    return 0;
out:
    folder_close(&f);
    return rc;
}

void folder_close(struct folder **f)
{
    struct folder *x = *f;
    if (!x)
        return;
    if (x->lock >= 0)
        close(x->lock);
    json_decref(x->made);
    sq_free(x);
    *f = NULL;
}
