#include "sq/base.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static const char *prog = "sq";
static enum sq_level limit = SQ_WARNING;

void sq_log_set(const char *name, enum sq_level level)
{
    prog = name;
    limit = level;
}

enum sq_level sq_log_level(void)
{
    return limit;
}

/* Names come from files and streams: in a line of ours they begin no other one and speak to no terminal. */
static void make_plain(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = '?';
}

void sq_log(enum sq_level level, const char *fmt, ...)
{
    static const char *const word[] = {"error", "warning", "info", "debug"};
    char line[1024];
    if (level > limit)
        return;
    int n = snprintf(line, sizeof line, "%s: %s: ", prog, word[level]);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    va_end(ap);
    make_plain(line);
    fprintf(stderr, "%s\n", line);
}

double sq_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double seconds(struct timeval t)
{
    return (double)t.tv_sec + 1e-6 * (double)t.tv_usec;
}

struct sq_usage sq_usage(void)
{
    struct rusage u = {0};
    getrusage(RUSAGE_SELF, &u);
    return (struct sq_usage){.cpu_seconds = seconds(u.ru_utime) + seconds(u.ru_stime),
                             .peak_bytes = (int64_t)u.ru_maxrss * 1024};
}
