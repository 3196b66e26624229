#include "sq/app.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "opt.h"
#include "sq/fault.h"
#include "sq/net.h"

#define YES(x) ((x) ? "yes" : "no")

const char *sq_version_text(void)
{
    static char text[512];
    snprintf(text, sizeof text, "libsq %s\ncompiler %s\nblis %s\nonednn %s\nzeromq %s\n", SQ_VERSION, SQ_COMPILER,
             YES(SQ_HAVE_BLIS), YES(SQ_HAVE_ONEDNN), YES(SQ_HAVE_ZMQ));
    return text;
}

/* A closed descriptor 0-2 would be reused by the next open() and get our data. */
static void open_standard_fds(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", fd ? O_WRONLY : O_RDONLY) < 0)
            _exit(1);
}

static void usage_error(const char *prog)
{
    sq_log(SQ_ERROR, "%s", sq_errmsg());
    fprintf(stderr, "usage: %s --help\n", prog);
    exit(2);
}

static void print_help(const char *prog, const char *synopsis, const char *about, const struct sq_opt *own,
                       const struct sq_opt *common)
{
    printf("%s - %s\nusage: %s [options]%s%s\n", prog, about, prog, *synopsis ? " " : "", synopsis);
    if (own[0].kind != SQ_OPT_END_)
        printf("\n");
    sq_opt_help(stdout, own);
    printf("\nin all programs\n");
    sq_opt_help(stdout, common);
    exit(fflush(stdout) == 0 ? 0 : 1);
}

static void print_man(const char *prog, const char *synopsis, const struct sq_opt_table *t)
{
    printf(".Sh SYNOPSIS\n.Nm %s\n.Op Ar options\n%s%s%s.Sh OPTIONS\n", prog, *synopsis ? ".Ar " : "", synopsis,
           *synopsis ? "\n" : "");
    sq_opt_man(stdout, t->row);
    exit(fflush(stdout) == 0 ? 0 : 1);
}

/* --config first, wherever it stands, so that the command line overrides the file */
static int apply_config(const struct sq_opt_table *t, json_t *given, int argc, char **argv)
{
    int rc = 0;
    for (int i = 1; rc == 0 && i < argc; i++) {
        const char *path = strncmp(argv[i], "--config=", 9) == 0 ? argv[i] + 9
                           : strcmp(argv[i], "--config") == 0 && i + 1 < argc ? argv[i + 1] : NULL;
        rc = path ? sq_opt_config(t, given, path) : 0;
    }
    return rc;
}

void sq_app_init(struct sq_app *app, const char *prog, const char *synopsis, const char *about,
                 const struct sq_opt *opts, int max_arg, int argc, char **argv)
{
    bool help = false, version = false, man = false, verbose = false, quiet = false, debug = false;
    const char *config = NULL;
    struct sq_net net = SQ_NET_INIT;
    struct sq_opt_table t;

    open_standard_fds();
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error with a text, not a death */
    setlocale(LC_ALL, "C");
    setvbuf(stderr, NULL, _IOLBF, 1024);
    *app = (struct sq_app){.prog = prog, .in = "-", .out = "-", .started = sq_now()};
    app->since = app->started;
    app->given = json_array();
    app->arg = calloc((size_t)argc + 1, sizeof *app->arg);
    sq_log_set(prog, SQ_WARNING);

    const struct sq_opt common[] = {
        SQ_OPT_STR('i', "in", &app->in, "ENDPOINT", "input: -, a path, fd:N, ipc://PATH or tcp://HOST:PORT"),
        SQ_OPT_STR('o', "out", &app->out, "ENDPOINT", "output: the same"),
        SQ_OPT_FLAG('v', "verbose", &verbose, "say more on stderr"),
        SQ_OPT_FLAG('q', "quiet", &quiet, "errors only"),
        SQ_OPT_FLAG(0, "debug", &debug, "say everything"),
        SQ_OPT_INT(0, "threads", &app->threads, 0, 1024, "threads; 0: every processor at hand"),
        SQ_OPT_ENUM(0, "backend", &app->backend, "auto|ref|cpu|cuda", "who computes; auto: a GPU that agrees with the reference, else the processor"),
        SQ_OPT_STR(0, "device", &app->device, "cuda:N", "compute on that device; --backend cuda alone: on cuda:0"),
        SQ_OPT_ENUM(0, "precision", &app->precision, "bf16|f32", "operands of products; sums are f32"),
        SQ_OPT_INT(0, "seed", &app->seed, 0, INT64_C(1) << 53, "seed of everything random"),
        SQ_OPT_FLAG(0, "progress", &app->progress, "progress and time left on stderr"),
        SQ_OPT_STR(0, "metrics", &app->metrics, "FILE", "append numbers as JSON lines"),
        SQ_NET_OPTS(net),
        SQ_OPT_FLAG(0, "no-prov", &app->no_prov, "leave provenance out"),
        SQ_OPT_STR(0, "config", &config, "FILE", "read long options from a file, one a line"),
        SQ_OPT_FLAG('h', "help", &help, "this text"),
        SQ_OPT_FLAG(0, "version", &version, "version, compiler, libraries found"),
        SQ_OPT_FLAG(0, "man", &man, "synopsis and options as mdoc"),
        SQ_OPT_END,
    };
    const int nown = sq_opt_join(&t, opts, common);
    static const struct sq_opt none[] = {SQ_OPT_END};
    const struct sq_opt *own = opts ? opts : none;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            print_help(prog, synopsis, about, own, t.row + nown);
        if (strcmp(argv[i], "--man") == 0)
            print_man(prog, synopsis, &t);
    }
    if (!app->given || !app->arg || sq_fault_set(getenv("SQ_FAULT")) < 0)
        usage_error(prog);
    if (apply_config(&t, app->given, argc, argv) < 0 ||
        sq_opt_parse(&t, app->given, app->arg, &app->narg, argc, argv) < 0)
        usage_error(prog);
    if (version) {
        printf("%s %s\n%s", prog, SQ_VERSION, sq_version_text());
        exit(fflush(stdout) == 0 ? 0 : 1);
    }
    if (app->narg > max_arg) {
        sq_fail(SQ_E_ARG, "unexpected operand '%s'", app->arg[max_arg]);
        usage_error(prog);
    }
    if (app->device && app->backend == 0)
        app->backend = 3; /* provenance says so, too */
    sq_net_set(&net);
    const char *env = getenv("SQ_LOG");
    sq_log_set(prog, debug || (env && strcmp(env, "debug") == 0)     ? SQ_DEBUG
                     : verbose || (env && strcmp(env, "info") == 0) ? SQ_INFO
                     : quiet                                         ? SQ_ERROR
                                                                     : SQ_WARNING);
    app->progress |= isatty(2) && tcgetpgrp(2) == getpgrp() && !quiet;
    omp_set_num_threads(app->threads ? (int)app->threads : omp_get_num_procs());
    if (app->metrics && !(app->metrics_file = sq_fault(SQ_FAULT_OPEN) ? NULL : fopen(app->metrics, "a"))) {
        sq_fail(SQ_E_ARG, "cannot write '%s': %s", app->metrics, strerror(errno));
        usage_error(prog);
    }
}

int sq_app_metric(struct sq_app *app, const char *event, json_t *fields)
{
    FILE *f = app->metrics_file;
    int rc = 0;

    if (f) {
        json_t *line = json_pack("{s:s, s:f}", "event", event, "t", sq_now() - app->started);
        if (!line || sq_fault(SQ_FAULT_WRITE) || (fields && json_object_update_missing(line, fields) < 0) ||
            json_dumpf(line, f, JSON_COMPACT) < 0 || fputc('\n', f) == EOF || fflush(f) == EOF)
            rc = sq_fail(SQ_E_IO, "cannot write '%s'", app->metrics);
        json_decref(line);
    }
    json_decref(fields);
    return rc;
}

static void write_duration(char buf[32], double s)
{
    if (s < 60)
        snprintf(buf, 32, "%.0f s", s);
    else if (s < 3600)
        snprintf(buf, 32, "%d:%02d min", (int)s / 60, (int)s % 60);
    else
        snprintf(buf, 32, "%d:%02d h", (int)(fmin(s, 3.6e8) / 3600), (int)(fmin(s, 3.6e8) / 60) % 60);
}

void sq_app_progress(struct sq_app *app, double done, double total, const char *fmt, ...)
{
    const bool terminal = isatty(2);
    const double now = sq_now(), spent = now - app->since;
    const double pause = terminal ? 1.0 / 6 : 30.0;
    char what[160], left[32];

    if (!app->progress || spent < 1.0 || (app->shown > 0 && now - app->shown < pause && done < total))
        return;
    app->shown = now;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    write_duration(left, done > 0 ? spent * (total - done) / done : 0.0);
    fprintf(stderr, terminal ? "\r\033[K%s: %3.0f %% %s, %s left%s" : "%s: %3.0f %% %s, %s left%s", app->prog,
            total > 0 ? 100.0 * done / total : 100.0, what, done > 0 ? left : "?",
            !terminal || done >= total ? "\n" : "");
    fflush(stderr);
}

int sq_app_exit(struct sq_app *app, int rc)
{
    int status = sq_err_status(rc);

    if (app->progress && app->shown > 0 && isatty(2) && rc < 0)
        fputc('\n', stderr);
    if (rc < 0)
        sq_log(SQ_ERROR, "%s", sq_errmsg());
    if (app->metrics_file && fclose(app->metrics_file) != 0 && status == 0) {
        sq_log(SQ_ERROR, "cannot write '%s'", app->metrics);
        status = 1;
    }
    if (fflush(stdout) != 0 && status == 0) {
        sq_log(SQ_ERROR, "cannot write the output: %s", strerror(errno));
        status = 1;
    }
    json_decref(app->given);
    free(app->arg);
    *app = (struct sq_app){.prog = app->prog};
    return status;
}
