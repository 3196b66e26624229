#include "sq/engine.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

/* docs/method.md 4: learning rates per sample of the batch, and epochs of all stages together. They belong to each
 * other, and to 128 samples in batches of 3. */
struct preset {
    double lr[SQ_P_KINDS];
    int64_t epochs;
    const char *learn;
};

static const struct preset WEIGHT_ACTIVATION = {{1e-3, 1e-4, 1e-2}, 20, "lora,lwc,cs"};
static const struct preset WEIGHT_ONLY = {{1e-3, 5e-4, 1e-2}, 20, "lora,lwc"};
static const struct preset WEIGHT_ONLY_2 = {{1e-3, 5e-4, 1e-2}, 60, "lora,lwc"};

enum { PUBLISHED_STEPS_PER_EPOCH = 43 };

/* The published rate has to carry clipping from sigma(4), where a step of u moves the factor by a fiftieth of it. A
 * searched start lies where a step moves it by a quarter, and is nearly right already. */
#define SEARCHED_CLIP_RATE 0.03
/* Above it LoRA's steps stop converging. */
#define LARGEST_BOOST 10.0

static const struct preset *preset_of(const struct sq_scheme *s)
{
    return s->abits < 16 ? &WEIGHT_ACTIVATION : s->wbits <= 2 ? &WEIGHT_ONLY_2 : &WEIGHT_ONLY;
}

static int read_learn(struct sq_params_spec *p, const char *text)
{
    if (strcmp(text, "none") == 0)
        return 0;
    for (const char *s = text; *s;) {
        const size_t n = strcspn(s, ",");
        bool *kind = n == 4 && !strncmp(s, "lora", n)  ? &p->lora
                     : n == 3 && !strncmp(s, "lwc", n) ? &p->clip
                     : n == 2 && !strncmp(s, "cs", n)  ? &p->scaling
                                                       : NULL;
        if (!kind || *kind)
            return sq_fail(SQ_E_ARG, "--learn takes none, or a list of lora, lwc and cs, not '%s'", text);
        *kind = true;
        s += n + (s[n] == ',' && s[n + 1]);
    }
    return *text ? 0 : sq_fail(SQ_E_ARG, "--learn is empty");
}

/* docs/method.md 6: N = 1 / gamma stages at gamma, 2 gamma ... 1, each with 1 / N of the epochs. */
static int read_rates(struct sq_plan *p, const struct sq_window_opts *o)
{
    const double n = round(1.0 / o->gamma);
    if (fabs(n * o->gamma - 1.0) > 1e-6 || n > SQ_MAX_RATES)
        return sq_fail(SQ_E_ARG, "--gamma %g does not divide 1", o->gamma);
    p->share = 1.0 / n;
    if (o->rate > 0.0) {
        p->rate[p->nrate++] = o->rate;
    } else if (!p->learns) {
        p->rate[p->nrate++] = 1.0; /* without training a stage has nothing to prepare */
    } else {
        for (int i = 1; i <= (int)n; i++)
            p->rate[p->nrate++] = i == (int)n ? 1.0 : i * o->gamma;
    }
    return 0;
}

/* "800M", "4G", "123456789"; NULL: 0 */
static int read_size(int64_t *out, const char *text)
{
    char *end;
    *out = 0;
    if (!text)
        return 0;
    errno = 0;
    const double x = strtod(text, &end);
    const double unit = *end == 'K' ? 1e3 : *end == 'M' ? 1e6 : *end == 'G' ? 1e9 : *end == 'T' ? 1e12 : 1.0;
    if (end == text || errno || !(x * unit >= 1.0 && x * unit < 1e18) || (*end && (unit == 1.0 || end[1])))
        return sq_fail(SQ_E_ARG, "--memory is '%s', not a size like 800M or 4G", text);
    *out = (int64_t)(x * unit);
    return 0;
}

/* A worker is told everything by the process that it works for. */
static int check_worker(const struct sq_window_opts *o)
{
    const char *other = o->scheme ? "scheme" : o->work ? "work" : o->jobs ? "jobs" : o->job ? "job" : o->memory ? "memory"
                        : o->plan ? "plan" : o->dry_run ? "dry-run" : o->workers.n ? "workers" : NULL;
    return other ? sq_fail(SQ_E_ARG, "--worker learns what its input says: leave out --%s", other) : 0;
}

int sq_plan_make(struct sq_plan *p, const struct sq_window_opts *o, int64_t seed)
{
    *p = (struct sq_plan){.batch = o->batch,
                          .shards = o->shards,
                          .strict = o->strict,
                          .no_cursor = o->no_cursor && !o->job,
                          .schedule = o->schedule,
                          .windows = o->windows,
                          .work = o->work,
                          .spill = o->spill,
                          .workers = o->workers,
                          .job = o->job != NULL,
                          .window_order = o->order == SQ_ORDER_WINDOW || o->job || o->jobs};
    int rc = read_size(&p->memory, o->memory);
    if (rc < 0)
        return rc;
    if (o->worker)
        return check_worker(o);
    if (o->workers.n > o->shards)
        return sq_fail(SQ_E_ARG, "%d workers for --shards %" PRId64 ": every one computes a part at the least", o->workers.n,
                       o->shards);
    if (o->workers.n > 0 && (o->plan || o->jobs))
        return sq_fail(SQ_E_ARG, "nothing is learned with %s: leave out --workers", o->plan ? "--plan" : "--jobs");
    if (o->shards > o->batch)
        return sq_fail(SQ_E_ARG, "--shards %" PRId64 " are more than the samples of --batch %" PRId64, o->shards, o->batch);
    if (o->jobs && o->job)
        return sq_fail(SQ_E_ARG, "--jobs writes job files and --job runs one: not both at once");
    if (o->dry_run && (o->jobs || o->job))
        return sq_fail(SQ_E_ARG, "--dry-run is of a run from the tokens: leave out %s", o->jobs ? "--jobs" : "--job");
    if (!o->scheme && !o->plan)
        return sq_fail(SQ_E_ARG, "--scheme is missing; W2A16, W3A16g128 and W4A4 are schemes");
    rc = sq_scheme_parse(&p->scheme, o->scheme ? o->scheme : "W16A16"); /* a plan alone needs none */
    if (rc < 0)
        return rc;
    const struct preset *preset = preset_of(&p->scheme);
    const bool paper = o->preset == SQ_PRESET_PAPER;
    p->params = (struct sq_params_spec){.rank = o->rank, .clip_start = 4.0, .seed = seed};
    p->paper = paper;
    p->learn = o->learn ? o->learn : preset->learn;
    rc = read_learn(&p->params, p->learn);
    if (rc < 0)
        return rc;
    const bool kind[SQ_P_KINDS] = {[SQ_P_ALPHA] = p->params.scaling,
                                   [SQ_P_LORA] = p->params.lora,
                                   [SQ_P_CLIP] = p->params.clip && p->scheme.wbits < 16};
    for (int i = 0; i < SQ_P_KINDS; i++)
        p->learns |= kind[i];
    p->epochs = o->epochs ? o->epochs : preset->epochs;
    rc = read_rates(p, o);
    if (rc < 0)
        return rc;
    p->init = o->init ? (enum sq_init)o->init : paper || !p->learns ? SQ_INIT_MINMAX : SQ_INIT_ACT;
    for (int i = 0; i < SQ_P_KINDS; i++) {
        const double scale = i == SQ_P_CLIP && p->init != SQ_INIT_MINMAX ? SEARCHED_CLIP_RATE : 1.0;
        p->lr[i] = !kind[i] ? 0.0 : o->lr[i] > 0.0 ? o->lr[i] : scale * preset->lr[i];
    }
    if (!paper && o->lr[SQ_P_LORA] == 0.0)
        p->lora_steps = p->share * (double)(preset->epochs * PUBLISHED_STEPS_PER_EPOCH);
    p->loss = o->loss ? (enum sq_loss_kind)(o->loss - 1) : paper ? SQ_LOSS_MSE : SQ_LOSS_MIX;
    /* a searched start is a clipping, whether it is learned further or not; 16 bits have nothing to clip */
    if (p->scheme.wbits >= 16)
        p->init = SQ_INIT_MINMAX;
    p->params.clip |= p->init != SQ_INIT_MINMAX;
    p->params.clip &= p->scheme.wbits < 16;
    p->needs_acts = p->learns || p->init != SQ_INIT_MINMAX;
    if (p->windows && p->nrate > 1 && !p->window_order && !o->plan)
        rc = sq_fail(SQ_E_ARG,
                     "--windows cuts one stage: give --rate too (--rate %g first), or --order window",
                     p->rate[0]);
    return rc;
}

double sq_plan_lr(const struct sq_plan *p, enum sq_param_kind kind, int64_t steps)
{
    if (kind != SQ_P_LORA || p->lora_steps == 0.0)
        return p->lr[kind];
    return p->lr[kind] * SQ_MIN(sqrt(p->lora_steps / (double)SQ_MAX(steps, 1)), LARGEST_BOOST);
}

/* "0-3", "2,5-7": ascending indices of windows */
static int choose(bool *chosen, const char *text, int64_t n)
{
    int64_t next = 0;
    for (const char *s = text;;) {
        int a = 0, b = 0, used = 0;
        if (*s < '0' || *s > '9' || sscanf(s, "%5d%n", &a, &used) != 1)
            break;
        s += used;
        b = a;
        if (*s == '-') {
            s++;
            if (*s < '0' || *s > '9' || sscanf(s, "%5d%n", &b, &used) != 1)
                break;
            s += used;
        }
        if (a > b || b >= n)
            return sq_fail(SQ_E_ARG,
                           "--windows %s: there is no range %d-%d; the schedule has windows 0 to %" PRId64,
                           text, a, b, n - 1);
        if (a < next)
            return sq_fail(SQ_E_ARG, "--windows %s: indices must ascend", text);
        for (int i = a; i <= b; i++)
            chosen[i] = true;
        next = b + 1;
        if (*s == '\0')
            return 0;
        if (*s++ != ',')
            break;
    }
    return sq_fail(SQ_E_ARG, "--windows takes indices such as 0-3 or 2,5-7, not '%s'", text);
}

int sq_plan_windows(struct sq_schedule *s, bool **chosen, const struct sq_plan *p, int64_t layers)
{
    *chosen = NULL;
    int rc = sq_schedule_parse(s, p->schedule, layers);
    if (rc == 0)
        rc = sq_alloc(chosen, s->n);
    if (rc == 0 && p->windows)
        rc = choose(*chosen, p->windows, s->n);
    else if (rc == 0)
        memset(*chosen, true, (size_t)s->n);
    if (rc < 0) {
        sq_schedule_release(s);
        sq_free(*chosen);
        *chosen = NULL;
    }
    return rc;
}

int sq_plan_print(const struct sq_plan *p, int64_t layers)
{
    struct sq_schedule s;
    bool *chosen;
    const int rc = sq_plan_windows(&s, &chosen, p, layers);
    if (rc < 0)
        return rc;
    for (int64_t i = 0; i < s.n; i++)
        if (chosen[i])
            printf("%" PRId64 "-%" PRId64 "\n", s.window[i].first, s.window[i].last);
    sq_free(chosen);
    sq_schedule_release(&s);
    return fflush(stdout) == 0 ? 0 : sq_fail(SQ_E_IO, "cannot write the plan");
}
