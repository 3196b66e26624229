#include "sq/scheme.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sq/json.h"

enum { GROUP_MAX = 1 << 20 };

static int check(const struct sq_scheme *s, const char *name)
{
    if (!((s->wbits >= 1 && s->wbits <= 8) || s->wbits == 16))
        return sq_fail(SQ_E_ARG, "scheme '%s': weights take 1 to 8 bits, or 16 to stay float", name);
    if (!((s->abits >= 2 && s->abits <= 8) || s->abits == 16))
        return sq_fail(SQ_E_ARG, "scheme '%s': activations take 2 to 8 bits, or 16 to stay float", name);
    if (s->wbits == 1 && s->sym)
        return sq_fail(SQ_E_ARG, "scheme '%s': symmetric weights need at least 2 bits", name);
    if (s->wbits == 16 && (s->sym || s->group))
        return sq_fail(SQ_E_ARG, "scheme '%s': float weights take no group and no 's'", name);
    if (s->group < 0 || s->group == 1 || s->group > GROUP_MAX)
        return sq_fail(SQ_E_ARG, "scheme '%s': group is not in 2..%d", name, GROUP_MAX);
    if (!(s->rate > 0 && s->rate <= 1))
        return sq_fail(SQ_E_ARG, "scheme '%s': rate %g is not in (0, 1]", name, s->rate);
    return 0;
}

/* Digits without sign, leading zero or blanks; -1 when there are none or too many. */
static int64_t number(const char **p)
{
    int64_t v = 0;
    int n = 0;
    if (**p == '0')
        return -1;
    for (; **p >= '0' && **p <= '9'; (*p)++, n++)
        v = n < 8 ? v * 10 + (**p - '0') : v;
    return n == 0 || n > 8 ? -1 : v;
}

static bool letter(const char **p, char c)
{
    if (**p != c && **p != (char)(c ^ 0x20))
        return false;
    (*p)++;
    return true;
}

static int parse(struct sq_scheme *s, const char *name, bool acts)
{
    const char *p = name, *form = acts ? "W<bits>A<bits>[g<group>][s], such as W2A16, W3A16g128, W4A4"
                                       : "W<bits>[g<group>], such as W8g32";
    *s = (struct sq_scheme){.abits = 16, .rate = 1};
    bool ok = letter(&p, 'W');
    s->wbits = ok ? (int)number(&p) : -1;
    ok = ok && s->wbits > 0;
    if (ok && acts) {
        ok = letter(&p, 'A');
        s->abits = ok ? (int)number(&p) : -1;
        ok = ok && s->abits > 0;
    }
    if (ok && letter(&p, 'G')) {
        s->group = number(&p);
        ok = s->group > 0;
    }
    s->sym = ok && letter(&p, 'S');
    if (!ok || *p)
        return sq_fail(SQ_E_ARG, "scheme '%.40s' is not %s", name, form);
    return 0;
}

int sq_scheme_parse(struct sq_scheme *s, const char *name)
{
    const int rc = parse(s, name, true);
    return rc < 0 ? rc : check(s, name);
}

int sq_scheme_parse_tensor(struct sq_scheme *s, const char *name)
{
    const int rc = parse(s, name, false);
    if (rc < 0)
        return rc;
    s->sym = s->wbits != 16;
    return check(s, name);
}

const char *sq_scheme_name(char buf[SQ_SCHEME_NAME], const struct sq_scheme *s)
{
    char group[16] = "";
    if (s->group)
        snprintf(group, sizeof group, "g%d", (int)s->group);
    snprintf(buf, SQ_SCHEME_NAME, "W%dA%d%s%s", s->wbits, s->abits, group, s->sym ? "s" : "");
    return buf;
}

int sq_scheme_to_json(json_t **out, const struct sq_scheme *s)
{
    *out = json_pack("{s:i, s:i, s:I, s:b, s:f}", "wbits", s->wbits, "abits", s->abits, "group",
                     (json_int_t)s->group, "symmetric", (int)s->sym, "rate", s->rate);
    return *out ? 0 : sq_fail(SQ_E_NOMEM, "no memory for a scheme");
}

int sq_scheme_from_json(struct sq_scheme *s, const json_t *obj)
{
    int64_t wbits = 0, abits = 16, group = 0;
    int rc;
    *s = (struct sq_scheme){.rate = 1};
    if (!json_is_object(obj))
        return sq_fail(SQ_E_FORMAT, "scheme is not a map");
    SQ_TRY(sq_json_int(&wbits, obj, "wbits", 1, 16));
    SQ_TRY(sq_json_int_opt(&abits, obj, "abits", 2, 16));
    SQ_TRY(sq_json_int_opt(&group, obj, "group", 0, GROUP_MAX));
    SQ_TRY(sq_json_bool_opt(&s->sym, obj, "symmetric"));
    SQ_TRY(sq_json_real_opt(&s->rate, obj, "rate"));
    s->wbits = (int)wbits;
    s->abits = (int)abits;
    s->group = group;
    char name[SQ_SCHEME_NAME];
    if (check(s, sq_scheme_name(name, s)) < 0)
        rc = sq_fail(SQ_E_FORMAT, "scheme record: W%d A%d group %d symmetric %d rate %g is not possible",
                     s->wbits, s->abits, (int)s->group, s->sym, s->rate);
out:
    return rc;
}

struct sq_rowq sq_scheme_weights(const struct sq_scheme *s)
{
    return (struct sq_rowq){
        .bits = s->wbits, .sym = s->sym, .zero = true, .group = s->group, .rate = s->rate};
}

struct sq_rowq sq_scheme_acts(const struct sq_scheme *s)
{
    return (struct sq_rowq){.bits = s->abits, .rate = s->rate};
}

bool sq_scheme_codes(const struct sq_scheme *s, int64_t k)
{
    return s->wbits < 16 && s->abits < 16 && !s->group && sq_codes_multiply(s->abits, s->wbits, k);
}
