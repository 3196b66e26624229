/* sq/app.h - one option table makes parser, --help, man page and provenance; start and exit of a program */
#ifndef SQ_APP_H
#define SQ_APP_H

#include <jansson.h>

#include "sq/base.h"

SQ_BEGIN_DECLS

enum sq_opt_kind { SQ_OPT_END_, SQ_OPT_FLAG_, SQ_OPT_INT_, SQ_OPT_REAL_, SQ_OPT_STR_, SQ_OPT_LIST_, SQ_OPT_ENUM_ };

/* One row of an option table. short_name is 0 for long-only options. The value's default is what
 * the pointed-to variable holds at start; help and man show it. */
struct sq_opt {
    char short_name;
    const char *name;
    enum sq_opt_kind kind;
    void *value;
    double min, max;
    const char *arg;  /* how the argument is called in --help; for enums "a|b|c", value = index */
    const char *help;
};

/* A list option may be given several times: values in order, borrowed from argv. */
struct sq_strs {
    const char *v[64];
    int n;
};

#define SQ_OPT_FLAG(s, n, p, h) {(s), (n), SQ_OPT_FLAG_, (p), 0, 0, NULL, (h)}              /* bool * */
#define SQ_OPT_INT(s, n, p, lo, hi, h) {(s), (n), SQ_OPT_INT_, (p), (double)(lo), (double)(hi), "N", (h)} /* int64_t * */
#define SQ_OPT_REAL(s, n, p, lo, hi, h) {(s), (n), SQ_OPT_REAL_, (p), (lo), (hi), "X", (h)} /* double * */
#define SQ_OPT_STR(s, n, p, a, h) {(s), (n), SQ_OPT_STR_, (p), 0, 0, (a), (h)}              /* const char ** */
#define SQ_OPT_LIST(s, n, p, a, h) {(s), (n), SQ_OPT_LIST_, (p), 0, 0, (a), (h)}            /* struct sq_strs * */
#define SQ_OPT_ENUM(s, n, p, choices, h) {(s), (n), SQ_OPT_ENUM_, (p), 0, 0, (choices), (h)} /* int * */
#define SQ_OPT_END {0, NULL, SQ_OPT_END_, NULL, 0, 0, NULL, NULL}

/* What is the same in all programs; sq_app_init adds these rows itself:
 * -i --in, -o --out, -v --verbose, -q --quiet, --debug, --threads, --backend, --device, --precision, --seed, --progress,
 * --metrics, those of sq/net.h, --no-prov, --config, -h --help, --version, --man. */
struct sq_app {
    const char *prog;       /* "sq-load" */
    const char *in, *out;   /* endpoints, "-" by default */
    int64_t threads;        /* 0: all processors that this process may use */
    int backend;            /* 0 auto, 1 ref, 2 cpu, 3 cuda */
    const char *device;     /* "cuda:1", which asks for that backend, or NULL */
    int precision;          /* 0 bf16, 1 f32 */
    int64_t seed;
    bool progress;          /* --progress, or stderr is a terminal in the foreground */
    const char *metrics;    /* file for JSON lines, or NULL */
    bool no_prov;
    int narg;               /* operands left after the options */
    char **arg;
    json_t *given;          /* the options given, as a JSON array of strings: goes into provenance */
    double started;         /* sq_now() at start */
    double since;           /* what the time left is reckoned from: started, or later */
    double shown;           /* when the last progress line was written, 0 before the first */
    void *metrics_file;     /* FILE *, open while the program runs */
};

/* Parse argv against the table. synopsis and about are one line each ("DIR | FILE.gguf",
 * "read a checkpoint, write a model stream"). --help, --version and usage errors (status 2) exit here;
 * nothing else in libsq exits. max_arg limits the operands. Opens fds 0-2 when closed, resets SIGPIPE, sets the C
 * locale, line-buffers stderr, applies --threads, starts the log. `--man` prints the
 * man page's SYNOPSIS and OPTIONS in mdoc. */
void sq_app_init(struct sq_app *app, const char *prog, const char *synopsis, const char *about,
                 const struct sq_opt *opts, int max_arg, int argc, char **argv);
/* Write the text of a failed rc to stderr, release app, return the exit status for main. */
int sq_app_exit(struct sq_app *app, int rc);
/* Append one line {"event":event,"t":seconds since start, ...fields} to --metrics; steals fields;
 * does nothing without --metrics. */
int sq_app_metric(struct sq_app *app, const char *event, json_t *fields);
/* Progress line with ETA: done of total (any unit) and what is being done. First after 1 s, then at
 * most 6 Hz on a terminal; one plain line per 30 s elsewhere when --progress is given. */
void sq_app_progress(struct sq_app *app, double done, double total, const char *fmt, ...) SQ_PRINTF(4, 5);

/* library version, compiler and which optional libraries it was built with, one per line; owner: libsq */
const char *sq_version_text(void);
#define SQ_VERSION "0.1.0"

SQ_END_DECLS
#endif
