#include "opt.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "sq/fault.h"

/* getopt_long's values for long options start above every character */
enum { LONG_BASE = 256 };

static void join(struct sq_opt_table *t, const struct sq_opt *rows)
{
    const int before = t->n;
    for (const struct sq_opt *o = rows; o && o->kind != SQ_OPT_END_; o++) {
        bool has = false;
        for (int i = 0; i < before; i++)
            has |= strcmp(t->row[i].name, o->name) == 0;
        if (has)
            continue;
        SQ_ASSERT(t->n + 1 < SQ_COUNT(t->row));
        t->row[t->n++] = *o;
    }
}

int sq_opt_join(struct sq_opt_table *t, const struct sq_opt *own, const struct sq_opt *common)
{
    t->n = 0;
    join(t, own);
    const int n = t->n;
    join(t, common);
    t->row[t->n] = (struct sq_opt)SQ_OPT_END;
    return n;
}

static int set_int(const struct sq_opt *row, const char *text)
{
    char *end;
    errno = 0;
    const long long x = strtoll(text, &end, 10);
    if (errno || end == text || *end || (double)x < row->min || (double)x > row->max)
        return sq_fail(SQ_E_ARG, "--%s takes a whole number from %.0f to %.0f, not '%s'", row->name, row->min,
                       row->max, text);
    *(int64_t *)row->value = x;
    return 0;
}

static int set_real(const struct sq_opt *row, const char *text)
{
    char *end;
    errno = 0;
    const double x = strtod(text, &end);
    if (errno || end == text || *end || !(x >= row->min && x <= row->max))
        return sq_fail(SQ_E_ARG, "--%s takes a number from %g to %g, not '%s'", row->name, row->min, row->max, text);
    *(double *)row->value = x;
    return 0;
}

static int set_enum(const struct sq_opt *row, const char *text)
{
    const size_t len = strlen(text);
    int index = 0;
    for (const char *p = row->arg; *p; index++) {
        const size_t n = strcspn(p, "|");
        if (n == len && strncmp(p, text, n) == 0) {
            *(int *)row->value = index;
            return 0;
        }
        p += n + (p[n] == '|');
    }
    return sq_fail(SQ_E_ARG, "--%s takes %s, not '%s'", row->name, row->arg, text);
}

int sq_opt_set(const struct sq_opt *row, const char *text)
{
    struct sq_strs *list = row->value;

    if (row->kind != SQ_OPT_FLAG_ && !text)
        return sq_fail(SQ_E_ARG, "--%s needs a value", row->name);
    switch (row->kind) {
    case SQ_OPT_FLAG_:
        if (text)
            return sq_fail(SQ_E_ARG, "--%s takes no value", row->name);
        *(bool *)row->value = true;
        return 0;
    case SQ_OPT_INT_:
        return set_int(row, text);
    case SQ_OPT_REAL_:
        return set_real(row, text);
    case SQ_OPT_ENUM_:
        return set_enum(row, text);
    case SQ_OPT_STR_:
        *(const char **)row->value = text;
        return 0;
    case SQ_OPT_LIST_:
        if (list->n == SQ_COUNT(list->v))
            return sq_fail(SQ_E_ARG, "--%s was given more than %d times", row->name, list->n);
        list->v[list->n++] = text;
        return 0;
    case SQ_OPT_END_:
        break;
    }
    return sq_fail(SQ_E_ARG, "no such option");
}

static int note(json_t *given, const struct sq_opt *row, const char *text)
{
    return json_array_append_new(given, text ? json_sprintf("--%s=%s", row->name, text) : json_sprintf("--%s", row->name));
}

static int row_of(const struct sq_opt_table *t, int value)
{
    for (int i = 0; i < t->n; i++)
        if (value == LONG_BASE + i || (t->row[i].short_name && value == t->row[i].short_name))
            return i;
    return -1;
}

/* getopt_long takes unique prefixes of long names; scripts that use one break when an option is added */
static bool whole_name(const struct sq_opt_table *t, const char *token)
{
    const size_t n = strcspn(token + 2, "=");
    for (int i = 0; i < t->n; i++)
        if (strlen(t->row[i].name) == n && strncmp(t->row[i].name, token + 2, n) == 0)
            return true;
    return false;
}

int sq_opt_parse(const struct sq_opt_table *t, json_t *given, char **arg, int *narg, int argc, char **argv)
{
    struct option longs[SQ_COUNT(t->row) + 1] = {{0}};
    char shorts[2 * SQ_COUNT(t->row) + 3] = "-:"; /* operands in order, ':' for a missing value */
    int len = 2;

    for (int i = 0; i < t->n; i++) {
        const struct sq_opt *o = &t->row[i];
        const bool takes = o->kind != SQ_OPT_FLAG_;
        longs[i] = (struct option){o->name, takes ? required_argument : no_argument, NULL, LONG_BASE + i};
        if (o->short_name) {
            shorts[len++] = o->short_name;
            if (takes)
                shorts[len++] = ':';
        }
    }
    *narg = 0;
    opterr = 0;
    optind = 1;
    for (;;) {
        const char *token = optind < argc ? argv[optind] : "";
        const int c = getopt_long(argc, argv, shorts, longs, NULL);
        if (c == -1)
            break;
        if (c == 1) {
            arg[(*narg)++] = optarg;
            continue;
        }
        if (c == ':')
            return sq_fail(SQ_E_ARG, "'%s' needs a value", token);
        const int i = row_of(t, c);
        if (i < 0 || (c >= LONG_BASE && !whole_name(t, token)))
            return sq_fail(SQ_E_ARG, "unknown option '%s'; --help lists them", token);
        /* provenance does without what is not UTF-8, as the name of a file may be */
        (void)note(given, &t->row[i], t->row[i].kind == SQ_OPT_FLAG_ ? NULL : optarg);
        const int rc = sq_opt_set(&t->row[i], optarg);
        if (rc < 0)
            return rc;
    }
    while (optind < argc)
        arg[(*narg)++] = argv[optind++];
    return 0;
}

static int config_line(const struct sq_opt_table *t, json_t *given, char *line)
{
    char *p = line;
    line[strcspn(line, "#\n")] = 0;
    while (isspace((unsigned char)*p))
        p++;
    if (!*p)
        return 0;
    char *value = p + strcspn(p, " \t=");
    if (*value) {
        *value++ = 0;
        value += strspn(value, " \t=");
        for (size_t n = strlen(value); n && isspace((unsigned char)value[n - 1]);)
            value[--n] = 0;
    }
    for (int i = 0; i < t->n; i++) {
        if (strcmp(t->row[i].name, p) != 0)
            continue;
        if (note(given, &t->row[i], *value ? value : NULL) < 0)
            return sq_fail(SQ_E_ARG, "what '%s' is set to is not UTF-8", p);
        /* option values borrow their text for the life of the process */
        const char *kept = json_string_value(json_array_get(given, json_array_size(given) - 1));
        return sq_opt_set(&t->row[i], *value ? kept + strlen("--=") + strlen(p) : NULL);
    }
    return sq_fail(SQ_E_ARG, "unknown option '%s'", p);
}

/* Room for a name and a value of a command line, whose words have at most 128 KiB. */
enum { CONFIG_LINE = 1 << 18 };

/* 1, or 0 at the end of the file. */
static int next_line(char *line, FILE *f, const char *path, int n)
{
    const char *got = NULL;
    if (sq_fault(SQ_FAULT_READ) || (!(got = fgets(line, CONFIG_LINE, f)) && ferror(f)))
        return sq_fail(SQ_E_IO, "cannot read '%s': %s", path, strerror(errno));
    if (got && !strchr(line, '\n') && !feof(f))
        return sq_fail(SQ_E_ARG, "%s:%d: a line of more than %d bytes, or with a zero byte", path, n, CONFIG_LINE - 2);
    return got != NULL;
}

int sq_opt_config(const struct sq_opt_table *t, json_t *given, const char *path)
{
    char *line = NULL;
    int rc;
    FILE *f = sq_fault(SQ_FAULT_OPEN) ? NULL : fopen(path, "r");
    if (!f)
        return sq_fail(SQ_E_IO, "cannot read '%s': %s", path, strerror(errno));
    SQ_TRY(sq_alloc(&line, CONFIG_LINE));
    for (int n = 1; (rc = next_line(line, f, path, n)) > 0; n++) {
        rc = config_line(t, given, line);
        if (rc < 0) {
            sq_fail_in(rc, "%s:%d", path, n);
            goto out;
        }
    }
out:
    sq_free(line);
    fclose(f);
    return rc;
}

static void default_text(char *buf, size_t n, const struct sq_opt *o)
{
    buf[0] = 0;
    if (o->kind == SQ_OPT_INT_)
        snprintf(buf, n, "%" PRId64, *(const int64_t *)o->value);
    else if (o->kind == SQ_OPT_REAL_)
        snprintf(buf, n, "%g", *(const double *)o->value);
    else if (o->kind == SQ_OPT_STR_ && *(const char *const *)o->value)
        snprintf(buf, n, "%s", *(const char *const *)o->value);
    else if (o->kind == SQ_OPT_ENUM_) {
        const char *p = o->arg;
        for (int i = *(const int *)o->value; i > 0; i--)
            p += strcspn(p, "|") + 1;
        snprintf(buf, n, "%.*s", (int)strcspn(p, "|"), p);
    }
}

void sq_opt_help(FILE *f, const struct sq_opt *rows)
{
    for (const struct sq_opt *o = rows; o->kind != SQ_OPT_END_; o++) {
        char left[128], def[96];
        snprintf(left, sizeof left, "%c%c%s --%s%s%s", o->short_name ? '-' : ' ', o->short_name ? o->short_name : ' ',
                 o->short_name ? "," : " ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        default_text(def, sizeof def, o);
        fprintf(f, "  %-28s %s%s%s%s\n", left, o->help, *def ? " [" : "", def, *def ? "]" : "");
    }
}

void sq_opt_man(FILE *f, const struct sq_opt *rows)
{
    fprintf(f, ".Bl -tag -width Ds\n");
    for (const struct sq_opt *o = rows; o->kind != SQ_OPT_END_; o++) {
        char def[96];
        default_text(def, sizeof def, o);
        fprintf(f, ".It ");
        if (o->short_name)
            fprintf(f, "Fl %c , ", o->short_name);
        fprintf(f, "Fl -%s", o->name);
        if (o->arg)
            fprintf(f, " Ar %s", o->arg);
        fprintf(f, "\n%c%s.\n", toupper((unsigned char)o->help[0]), o->help + 1);
        if (*def)
            fprintf(f, "Default: %s.\n", def);
    }
    fprintf(f, ".El\n");
}
