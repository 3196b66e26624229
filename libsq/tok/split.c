#include <ctype.h>
#include <string.h>

#include "parts.h"

/* Patterns are written for Oniguruma with Ruby's syntax. PCRE2 reads the same text the same way but for the escapes below,
 * which are rewritten or refused: \s there is White_Space (PCRE2 adds U+180E), \h is a hexadecimal digit, \w has marks. */

const char sq_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum { PATTERN_MAX = 1 << 14, MATCH_LIMIT = 20000000, DEPTH_LIMIT = 20000, STACK_MAX = 8 << 20 };

static int refuse(const char *pattern, size_t at, const char *what)
{
    return sq_fail(SQ_E_UNSUP, "pre-tokenizer pattern '%.100s': %s at %zu is not supported", pattern, what, at);
}

#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"

static int add_text(struct sq_bytes *out, const char *s)
{
    return sq_bytes_add(out, s, strlen(s));
}

static int escape(struct sq_bytes *out, const char *p, size_t i, bool class)
{
    switch (p[i + 1]) {
    case 's':
        return add_text(out, "\\p{White_Space}");
    case 'S':
        return add_text(out, "\\P{White_Space}");
    case 'w':
        return add_text(out, class ? WORD : "[" WORD "]");
    case 'p': case 'P': case 'd': case 'D': case 'n': case 'r': case 't': case 'f': case 'v': case 'x': case 'u':
        /* \v is one character for Oniguruma and a class for PCRE2; \u has another spelling there */
        if (p[i + 1] != 'v' && p[i + 1] != 'u')
            return sq_bytes_add(out, p + i, 2);
        break;
    case 'A': case 'z': case 'Z':
        if (!class)
            return sq_bytes_add(out, p + i, 2);
        break;
    default:
        if (!isalnum((unsigned char)p[i + 1]))
            return sq_bytes_add(out, p + i, 2);
    }
    return refuse(p, i, "an escape");
}

/* "(?" may open a group, a look-around, or switch case and free spacing; other switches differ between the two. */
static bool group_ok(const char *p, size_t n, size_t i)
{
    if (i + 1 < n && p[i + 1] == '*')
        return false;
    if (i + 2 >= n || p[i + 1] != '?')
        return true;
    size_t k = i + 2;
    while (k < n && (p[k] == 'i' || p[k] == '-'))
        k++;
    return k < n && (k > i + 2 ? p[k] == ':' || p[k] == ')' : strchr(":=!<>", p[k]) != NULL);
}

static int translate(struct sq_bytes *out, const char *p, size_t n)
{
    int rc = 0;
    bool class = false, range = false; /* range: behind the brace of "{1,3}" */
    size_t open = 0;
    for (size_t i = 0; i < n; i++) {
        const bool ranged = range;
        range = false;
        if (p[i] == '\\') {
            if (i + 1 >= n) {
                rc = refuse(p, i, "a backslash at the end");
                goto out;
            }
            SQ_TRY(escape(out, p, i, class));
            i++;
            if (i + 1 < n && p[i + 1] == '{' && strchr("pPx", p[i]))
                for (size_t from = ++i; i < n; i++) { /* a name in braces: not a range */
                    SQ_TRY(sq_bytes_add(out, p + i, 1));
                    if (p[i] == '}' || i - from > 64)
                        break;
                }
            continue;
        }
        if (class) {
            const bool first = i == open + 1 || (i == open + 2 && p[open + 1] == '^');
            if (p[i] == '[' || (p[i] == '&' && i + 1 < n && p[i + 1] == '&') || (p[i] == ']' && first)) {
                rc = refuse(p, i, "a set inside a set");
                goto out;
            }
            class = p[i] != ']';
        } else if (p[i] == '[') {
            class = true;
            open = i;
        } else if (p[i] == '(' && !group_ok(p, n, i)) {
            rc = refuse(p, i, "a group");
            goto out;
        } else if (p[i] == '+' && ranged) {
            rc = refuse(p, i, "a possessive range"); /* greedy there, possessive here */
            goto out;
        }
        range = !class && p[i] == '}';
        SQ_TRY(sq_bytes_add(out, p + i, 1));
    }
out:
    return rc;
}

static int step_new(struct sq_pre **out, struct sq_tok *tok)
{
    if (tok->npre == SQ_STEPS_MAX)
        return sq_fail(SQ_E_UNSUP, "the pre-tokenizer has more than %d steps", SQ_STEPS_MAX);
    *out = &tok->pre[tok->npre++];
    return 0;
}

int sq_pre_split(struct sq_tok *tok, const char *pattern, size_t n, enum sq_behavior behavior, bool invert)
{
    struct sq_bytes re = {NULL, 0, 0};
    struct sq_pre *step = NULL;
    pcre2_compile_context *ctx = NULL;
    int rc = 0, err;
    PCRE2_SIZE at;
    char why[128];

    if (n == 0 || n > PATTERN_MAX) {
        rc = sq_fail(SQ_E_FORMAT, "a pre-tokenizer pattern has %zu bytes", n);
        goto out;
    }
    SQ_TRY(translate(&re, pattern, n));
    SQ_TRY(step_new(&step, tok));
    step->kind = SQ_PRE_SPLIT;
    step->behavior = behavior;
    step->invert = invert;
    ctx = pcre2_compile_context_create(NULL);
    if (!ctx) {
        rc = sq_fail(SQ_E_NOMEM, "no memory for a pattern");
        goto out;
    }
    pcre2_set_newline(ctx, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(ctx, 50);
    step->re = pcre2_compile((PCRE2_SPTR)re.p, re.n,
                             PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_MULTILINE, &err, &at, ctx);
    if (!step->re) {
        pcre2_get_error_message(err, (PCRE2_UCHAR *)why, sizeof(why));
        rc = sq_fail(SQ_E_FORMAT, "pre-tokenizer pattern '%.100s': %s at %zu", pattern, why, (size_t)at);
        goto out;
    }
    /* without a compiler for this machine the same pattern is interpreted */
    (void)pcre2_jit_compile(step->re, PCRE2_JIT_COMPLETE);
out:
    pcre2_compile_context_free(ctx);
    sq_free(re.p);
    return rc;
}

int sq_pre_split_text(struct sq_tok *tok, const char *text, size_t n, enum sq_behavior behavior, bool invert)
{
    struct sq_bytes quoted = {NULL, 0, 0};
    int rc = 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c < 0x80 && !isalnum(c))
            SQ_TRY(sq_bytes_add(&quoted, "\\", 1));
        SQ_TRY(sq_bytes_add(&quoted, text + i, 1));
    }
    SQ_TRY(sq_pre_split(tok, quoted.p, quoted.n, behavior, invert));
out:
    sq_free(quoted.p);
    return rc;
}

/* ---- cutting ---- */

int sq_cutter_init(struct sq_cutter *c, struct sq_ids *out, struct sq_bpe *bpe)
{
    memset(c, 0, sizeof(*c));
    c->tok = bpe->tok;
    c->bpe = bpe;
    c->out = out;
    c->match = pcre2_match_data_create(1, NULL);
    c->limits = pcre2_match_context_create(NULL);
    if (!c->match || !c->limits)
        return sq_fail(SQ_E_NOMEM, "no memory for matching");
    pcre2_set_match_limit(c->limits, MATCH_LIMIT);
    pcre2_set_depth_limit(c->limits, DEPTH_LIMIT);
    return 0;
}

/* The first 32 KiB are on the machine's stack; patterns that need more are rare, and a larger one costs a mapping. */
static bool larger_stack(struct sq_cutter *c)
{
    if (c->stack)
        return false;
    c->stack = pcre2_jit_stack_create(64 << 10, STACK_MAX, NULL);
    if (c->stack)
        pcre2_jit_stack_assign(c->limits, NULL, c->stack);
    return c->stack != NULL;
}

void sq_cutter_release(struct sq_cutter *c)
{
    pcre2_match_data_free(c->match);
    pcre2_match_context_free(c->limits);
    pcre2_jit_stack_free(c->stack);
    for (int i = 0; i < SQ_STEPS_MAX; i++)
        sq_free(c->scratch[i].p);
    memset(c, 0, sizeof(*c));
}

static int cut(struct sq_cutter *c, int step, const char *s, size_t n, bool first);

/* Matches and what lies between them come in order; behaviours that join neighbours hold one back. */
struct joiner {
    struct sq_cutter *c;
    const struct sq_pre *step;
    int index;
    const char *s;
    bool first;
    bool held, held_match;
    size_t start, end;
};

static int emit(struct joiner *j, size_t start, size_t end)
{
    return cut(j->c, j->index + 1, j->s + start, end - start, j->first && start == 0);
}

static int flush(struct joiner *j)
{
    const bool held = j->held;
    j->held = false;
    return held ? emit(j, j->start, j->end) : 0;
}

static int feed(struct joiner *j, size_t start, size_t end, bool match)
{
    const enum sq_behavior b = j->step->behavior;
    match = match != j->step->invert;
    if (b == SQ_ISOLATED)
        return emit(j, start, end);
    if (b == SQ_REMOVED)
        return match ? 0 : emit(j, start, end);
    const bool join = j->held && (b == SQ_CONTIGUOUS      ? j->held_match == match
                                  : b == SQ_WITH_PREVIOUS ? match && !j->held_match
                                                          : !match && j->held_match);
    if (!join) {
        const int rc = flush(j);
        if (rc < 0)
            return rc;
        j->start = start;
    }
    j->held = true;
    j->held_match = match;
    j->end = end;
    return 0;
}

static int split(struct sq_cutter *c, int index, const char *s, size_t n, bool first)
{
    const struct sq_pre *step = &c->tok->pre[index];
    struct joiner j = {.c = c, .step = step, .index = index, .s = s, .first = first};
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(c->match);
    size_t done = 0, from = 0, last = SIZE_MAX;
    int rc = 0;

    while (from < n) {
        const int got = pcre2_match(step->re, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, c->match, c->limits);
        if (got == PCRE2_ERROR_NOMATCH)
            break;
        if (got == PCRE2_ERROR_JIT_STACKLIMIT && larger_stack(c))
            continue;
        if (got < 0) {
            char why[128];
            pcre2_get_error_message(got, (PCRE2_UCHAR *)why, sizeof(why));
            rc = sq_fail(SQ_E_VALUE, "pre-tokenizer pattern %d on %zu bytes of text: %s", index + 1, n - from, why);
            goto out;
        }
        const size_t start = found[0], end = found[1];
        if (start < done || end < start) { /* \K could do that */
            rc = sq_fail(SQ_E_UNSUP, "pre-tokenizer pattern %d matches backwards", index + 1);
            goto out;
        }
        from = end > start ? end : end < n ? end + sq_utf8_len(s + end) : n;
        if (end == start && end == last)
            continue; /* the reference, too, cuts at an empty match unless another match ended there */
        last = end;
        if (start > done)
            SQ_TRY(feed(&j, done, start, false));
        done = end;
        SQ_TRY(feed(&j, start, end, true));
    }
    if (done < n)
        SQ_TRY(feed(&j, done, n, false));
    SQ_TRY(flush(&j));
out:
    return rc;
}

static bool begins(const char *s, size_t n, struct sq_tok_str with)
{
    return n >= with.n && memcmp(s, with.p, with.n) == 0;
}

/* Spaces become the step's letter, and one is put in front. */
static int meta(struct sq_cutter *c, int index, const char *s, size_t n, bool first)
{
    const struct sq_pre *step = &c->tok->pre[index];
    struct sq_bytes *text = &c->scratch[index];
    int rc = 0;

    text->n = 0;
    const bool has = begins(s, n, step->meta) || (n > 0 && s[0] == ' ');
    if (!has && (step->scheme == SQ_META_ALWAYS || (step->scheme == SQ_META_FIRST && first)))
        SQ_TRY(sq_bytes_add(text, step->meta.p, step->meta.n));
    for (size_t i = 0; i < n; i++) {
        if (s[i] == ' ')
            SQ_TRY(sq_bytes_add(text, step->meta.p, step->meta.n));
        else
            SQ_TRY(sq_bytes_add(text, s + i, 1));
    }
    rc = cut(c, index + 1, text->p, text->n, first);
out:
    return rc;
}

static int space(struct sq_cutter *c, int index, const char *s, size_t n, bool first)
{
    struct sq_bytes *text = &c->scratch[index];
    int rc = 0;

    if (s[0] == ' ')
        return cut(c, index + 1, s, n, first);
    text->n = 0;
    SQ_TRY(sq_bytes_add(text, " ", 1));
    SQ_TRY(sq_bytes_add(text, s, n));
    rc = cut(c, index + 1, text->p, text->n, first);
out:
    return rc;
}

static int cut(struct sq_cutter *c, int step, const char *s, size_t n, bool first)
{
    if (n == 0)
        return 0;
    if (step == c->tok->npre)
        return sq_bpe_word(c->out, c->bpe, s, n);
    switch (c->tok->pre[step].kind) {
    case SQ_PRE_SPACE:
        return space(c, step, s, n, first);
    case SQ_PRE_META:
        return meta(c, step, s, n, first);
    default:
        return split(c, step, s, n, first);
    }
}

int sq_cutter_piece(struct sq_cutter *c, const char *s, size_t n, bool first)
{
    return cut(c, 0, s, n, first);
}
