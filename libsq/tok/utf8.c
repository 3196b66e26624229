#include <string.h>

#include "parts.h"

size_t sq_utf8_check(const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= sizeof(eight)) {
            memcpy(&eight, p + i, sizeof(eight));
            if (!(eight & 0x8080808080808080u)) {
                i += sizeof(eight);
                continue;
            }
        }
        const unsigned char c = p[i];
        if (c < 0x80) {
            i++;
            continue;
        }
        /* The second byte's range excludes overlong forms, surrogates and what is past U+10FFFF. */
        size_t more;
        unsigned char lo = 0x80, hi = 0xbf;
        if (c >= 0xc2 && c <= 0xdf) {
            more = 1;
        } else if (c >= 0xe0 && c <= 0xef) {
            more = 2;
            lo = c == 0xe0 ? 0xa0 : lo;
            hi = c == 0xed ? 0x9f : hi;
        } else if (c >= 0xf0 && c <= 0xf4) {
            more = 3;
            lo = c == 0xf0 ? 0x90 : lo;
            hi = c == 0xf4 ? 0x8f : hi;
        } else {
            return i;
        }
        if (n - i <= more || p[i + 1] < lo || p[i + 1] > hi)
            return i;
        for (size_t k = 2; k <= more; k++)
            if ((p[i + k] & 0xc0) != 0x80)
                return i;
        i += more + 1;
    }
    return n;
}

size_t sq_utf8_len(const char *s)
{
    const unsigned char c = (unsigned char)*s;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

uint32_t sq_utf8_get(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    const uint32_t c = p[0];
    switch (sq_utf8_len(s)) {
    case 1:
        return c;
    case 2:
        return (c & 0x1f) << 6 | (p[1] & 0x3fu);
    case 3:
        return (c & 0x0f) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    default:
        return (c & 0x07) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
    }
}

size_t sq_utf8_put(char s[SQ_CHAR_MAX], uint32_t c)
{
    if (c < 0x80) {
        s[0] = (char)c;
        return 1;
    }
    const size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        s[i] = (char)(0x80 | (c & 0x3f));
    s[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | c);
    return n;
}

bool sq_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

int sq_bytes_add(struct sq_bytes *b, const void *p, size_t n)
{
    if (n > b->cap - b->n) {
        char *larger;
        if (n > SIZE_MAX / 4 - b->n)
            return sq_fail(SQ_E_NOMEM, "no memory for %zu bytes of text", n);
        const size_t cap = SQ_MAX(2 * (b->n + n), (size_t)256);
        const int rc = sq_alloc(&larger, (int64_t)cap);
        if (rc < 0)
            return rc;
        if (b->n)
            memcpy(larger, b->p, b->n);
        sq_free(b->p);
        b->p = larger;
        b->cap = cap;
    }
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
    return 0;
}

/* GPT-2's alphabet: printable bytes of Latin-1 stand for themselves, the others for U+0100 and on, in order. */
static bool stands_for_itself(uint32_t c)
{
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

uint32_t sq_byte_letter(uint8_t b)
{
    if (stands_for_itself(b))
        return b;
    /* 0..0x20, then 0x7f..0xa0, then 0xad */
    return 0x100u + (b <= 0x20 ? b : b <= 0xa0 ? b - 0x7fu + 0x21u : 0x43u);
}

int sq_letter_byte(uint32_t c)
{
    if (c < 0x100)
        return stands_for_itself(c) ? (int)c : -1;
    c -= 0x100;
    return c <= 0x20 ? (int)c : c <= 0x42 ? (int)(c - 0x21 + 0x7f) : c == 0x43 ? 0xad : -1;
}
