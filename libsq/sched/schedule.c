#include "sq/schedule.h"

#include <stdlib.h>
#include <string.h>

/* What a form of the schedule comes down to: shallow, deep, size, step of docs/method.md 5. */
struct slide {
    int64_t shallow, deep, size, step;
};

enum { MAX_LAYERS = 1024, MAX_WINDOWS = 1 << 16 };

/* Windows only move forward, so that a pass can let layers go and run every float layer once. */
static int append(struct sq_schedule *s, int64_t *cap, int64_t first, int64_t last)
{
    if (s->n > 0) {
        const struct sq_window *w = &s->window[s->n - 1];
        if (w->first == first && w->last == last)
            return 0;
        if (first < w->first || last < w->last)
            return sq_fail(SQ_E_ARG,
                           "window %" PRId64 "-%" PRId64 " goes back behind window %" PRId64 "-%" PRId64
                           " before it; neither first nor last layers may decrease",
                           first, last, w->first, w->last);
    }
    if (s->n == MAX_WINDOWS)
        return sq_fail(SQ_E_ARG, "a schedule has at most %d windows", MAX_WINDOWS);
    if (s->n == *cap) {
        struct sq_window *grown = NULL;
        const int64_t room = *cap ? 2 * *cap : 64;
        const int rc = sq_alloc(&grown, room);
        if (rc < 0)
            return rc;
        if (s->n > 0)
            memcpy(grown, s->window, (size_t)s->n * sizeof(*grown));
        sq_free(s->window);
        s->window = grown;
        *cap = room;
    }
    s->window[s->n++] = (struct sq_window){.first = first, .last = last};
    return 0;
}

/* Values that fit: the ends shrink in proportion, a middle of at least one layer stays where there is one. */
static int too_short(const struct slide *p, int64_t layers)
{
    const int64_t ends = p->shallow + p->deep, left = SQ_MAX(layers - 1, 0);
    const int64_t shallow = p->shallow * left / ends, deep = SQ_MIN(p->deep, left - shallow);
    return sq_fail(SQ_E_ARG,
                   "%" PRId64 " layers are fewer than the %" PRId64 " shallow and %" PRId64
                   " deep ones of the schedule; try --schedule slider:%" PRId64 ",%" PRId64 ",%" PRId64
                   ",%" PRId64 " or --schedule fixed:%" PRId64 ",%" PRId64,
                   layers, p->shallow, p->deep, shallow, deep, p->size, p->step, p->size, p->step);
}

/* docs/method.md 5: expanding, fixed, contracting. */
static int slide(struct sq_schedule *s, int64_t *cap, const struct slide *p, int64_t layers)
{
    int rc;
    if (p->size < 1 || p->step < 1 || p->step > p->size)
        return sq_fail(SQ_E_ARG,
                       "windows of %" PRId64 " layers cannot move by %" PRId64
                       "; it must be 1 <= step <= size",
                       p->size, p->step);
    if (layers < p->shallow + p->deep)
        return too_short(p, layers);
    for (int64_t n = 1; n <= p->shallow; n++)
        if ((rc = append(s, cap, 0, n - 1)) < 0)
            return rc;

    const int64_t begin = SQ_MAX(0, p->shallow - p->step);
    const int64_t cover = layers - begin - SQ_MAX(0, p->deep - p->step); /* layers of the fixed windows */
    const int64_t over = cover - p->size;
    int64_t slides = (over > 0 ? (over + p->step - 1) / p->step : over / p->step) + 1;
    slides = SQ_MAX(slides, layers > p->shallow + p->deep ? 1 : 0);
    for (int64_t n = 0; n < slides; n++) {
        const int64_t first = begin + n * p->step, last = SQ_MIN(first + p->size, layers) - 1;
        /* a wide step may carry the last one past the first contracting window, which covers the same layers
         */
        if (p->deep > 0 && first > layers - p->deep)
            break;
        if ((rc = append(s, cap, first, last)) < 0)
            return rc;
    }
    for (int64_t n = p->deep; n >= 1; n--)
        if ((rc = append(s, cap, layers - n, layers - 1)) < 0)
            return rc;
    return 0;
}

/* A plain decimal number of at most 7 digits; *text moves behind it. */
static bool number(int64_t *out, const char **text)
{
    const char *p = *text;
    int64_t v = 0;
    for (; *p >= '0' && *p <= '9' && p - *text < 8; p++)
        v = 10 * v + (*p - '0');
    if (p == *text || p - *text == 8)
        return false;
    *out = v;
    *text = p;
    return true;
}

/* Up to n numbers separated by commas; the rest of v keeps its defaults. */
static bool numbers(int64_t *v, int n, const char *text)
{
    for (int i = 0; i < n; i++) {
        if (!number(&v[i], &text))
            return false;
        if (*text == '\0')
            return true;
        if (*text++ != ',')
            return false;
    }
    return false;
}

/* "0-0,0-1,3": every layer covered, because a layer without a window would stay float unnoticed. */
static int list(struct sq_schedule *s, int64_t *cap, const char *text, int64_t layers)
{
    const char *p = text;
    int64_t next = 0; /* layers below are covered */
    for (;;) {
        int64_t first, last;
        if (!number(&first, &p))
            break;
        last = first;
        if (*p == '-') {
            p++;
            if (!number(&last, &p))
                break;
        }
        if (first > last)
            return sq_fail(SQ_E_ARG, "window %" PRId64 "-%" PRId64 " ends before it begins", first, last);
        if (last >= layers)
            return sq_fail(SQ_E_ARG,
                           "window %" PRId64 "-%" PRId64 " does not fit; the last of %" PRId64
                           " layers is %" PRId64,
                           first, last, layers, layers - 1);
        if (first > next)
            return sq_fail(SQ_E_ARG, "no window covers layer %" PRId64, next);
        const int rc = append(s, cap, first, last);
        if (rc < 0)
            return rc;
        next = SQ_MAX(next, last + 1);
        if (*p == '\0')
            return next == layers ? 0 : sq_fail(SQ_E_ARG, "no window covers layer %" PRId64, next);
        if (*p++ != ',')
            break;
    }
    return sq_fail(
        SQ_E_ARG,
        "schedule '%s' is not slider[:Ls,Ld,s,i], fixed:s,i, layer, blocks:n or a list such as 0-0,0-1,1-3",
        text);
}

/* The argument of NAME or NAME:ARG ("" without one), or NULL when text is another form. */
static const char *form(const char *text, const char *name)
{
    const size_t n = strlen(name);
    if (strncmp(text, name, n) != 0)
        return NULL;
    return text[n] == ':' ? text + n + 1 : text[n] == '\0' ? text + n : NULL;
}

static int build(struct sq_schedule *s, int64_t *cap, const char *text, int64_t layers)
{
    const char *arg;
    struct slide p = {.shallow = 0, .deep = 0, .size = 1, .step = 1};
    int64_t v[4] = {4, 4, 2, 1};
    if ((arg = form(text, "slider")) != NULL) {
        if (*arg && !numbers(v, 4, arg))
            return sq_fail(
                SQ_E_ARG,
                "schedule '%s' is not slider:Ls,Ld,s,i with up to 4 numbers, such as slider:4,4,2,1", text);
        p = (struct slide){.shallow = v[0], .deep = v[1], .size = v[2], .step = v[3]};
    } else if ((arg = form(text, "fixed")) != NULL) {
        if (!numbers(v, 2, arg) || !strchr(arg, ','))
            return sq_fail(SQ_E_ARG, "schedule '%s' is not fixed:s,i with two numbers, such as fixed:2,1",
                           text);
        p.size = v[0];
        p.step = v[1];
    } else if ((arg = form(text, "blocks")) != NULL) {
        if (!numbers(v, 1, arg))
            return sq_fail(SQ_E_ARG, "schedule '%s' is not blocks:n with a number, such as blocks:2", text);
        p.size = p.step = v[0];
    } else if ((arg = form(text, "layer")) != NULL) {
        if (*arg)
            return sq_fail(SQ_E_ARG, "schedule '%s': layer takes no numbers", text);
    } else {
        return list(s, cap, text, layers);
    }
    return slide(s, cap, &p, layers);
}

int sq_schedule_parse(struct sq_schedule *s, const char *text, int64_t layers)
{
    *s = (struct sq_schedule){.window = NULL, .n = 0};
    if (layers < 1 || layers > MAX_LAYERS)
        return sq_fail(SQ_E_ARG, "no schedule for %" PRId64 " layers; 1 to %d are possible", layers,
                       MAX_LAYERS);
    int64_t cap = 0;
    const int rc = build(s, &cap, text, layers);
    if (rc < 0)
        sq_schedule_release(s);
    return rc;
}

void sq_schedule_release(struct sq_schedule *s)
{
    sq_free(s->window);
    *s = (struct sq_schedule){.window = NULL, .n = 0};
}
