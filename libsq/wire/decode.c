/* Headers from msgpack, read value by value from the input: nothing is allocated for a length that has not
 * been checked against what a header may still have. msgpack-c's own unpacker buffers whole objects and lets
 * five bytes ask for gigabytes, so it is not used. */
#include <string.h>

#include "wire.h"

/* Bytes consumed from the buffer go into the digest in one piece. */
static void hash_consumed(struct sq_stream *s)
{
    sq_hash_add(&s->sum, s->buf + s->hashed, s->pos - s->hashed);
    s->hashed = s->pos;
}

static int ended_early(struct sq_stream *s)
{
    char label[WIRE_WHERE];
    const char *in = wire_label(s, label);
    if (s->bytes == 0)
        return sq_fail(SQ_E_TRUNC, "%sinput ended before the first record", in);
    if (s->in_payload)
        return sq_fail(SQ_E_TRUNC, "%sinput ended inside %s", in, s->where);
    return sq_fail(SQ_E_TRUNC, "%sinput ended %s %s, without an end record", in,
                   s->bytes == s->bytes_at ? "after" : "inside the record after", s->where);
}

static int fill(struct sq_stream *s)
{
    hash_consumed(s);
    s->pos = s->len = s->hashed = 0;
    const int64_t n = wire_read(s, s->buf, WIRE_BUF);
    if (n <= 0)
        return n < 0 ? (int)n : ended_early(s);
    s->len = (size_t)n;
    return 0;
}

int wire_take(struct sq_stream *s, void *dst, size_t n)
{
    char *to = dst;

    while (n) {
        if (s->pos == s->len && n < WIRE_BUF) {
            const int rc = fill(s);
            if (rc < 0)
                return rc;
        }
        size_t k = SQ_MIN(n, s->len - s->pos);
        if (k) {
            memcpy(to, s->buf + s->pos, k);
            s->pos += k;
        } else {
            hash_consumed(s);
            const int64_t got = wire_read(s, to, SQ_MIN(n, (size_t)WIRE_SLICE));
            if (got <= 0)
                return got < 0 ? (int)got : ended_early(s);
            k = (size_t)got;
            sq_hash_add(&s->sum, to, k);
        }
        to += k;
        n -= k;
        s->bytes += (int64_t)k;
    }
    return 0;
}

void wire_header_starts(struct sq_stream *s)
{
    hash_consumed(s);
    sq_hash_copy(&s->before, &s->sum);
    s->bytes_at = s->bytes;
    s->budget = SQ_HEADER_MAX;
    s->values = WIRE_VALUES;
}

static int take(struct sq_stream *s, void *dst, size_t n)
{
    if (n > (size_t)s->budget)
        return sq_fail(SQ_E_FORMAT, "a header of more than %d MiB", SQ_HEADER_MAX >> 20);
    s->budget -= (int64_t)n;
    return wire_take(s, dst, n);
}

/* n big-endian bytes */
static int take_uint(struct sq_stream *s, uint64_t *out, size_t n)
{
    uint8_t b[8];
    const int rc = take(s, b, n);
    *out = 0;
    for (size_t i = 0; rc == 0 && i < n; i++)
        *out = *out << 8 | b[i];
    return rc;
}

enum type { INT, REAL, STR, BIN, ARRAY, MAP, NIL, TRUE_, FALSE_ };

/* The head of a value: its type, its number or its length */
struct item {
    enum type type;
    int64_t i; /* integer, or the length of STR, BIN, ARRAY, MAP */
    double f;
};

static int read_int(struct sq_stream *s, struct item *it, unsigned b)
{
    uint64_t u;
    const size_t n = (size_t)1 << (b & 3); /* cc..cf and d0..d3: 1, 2, 4, 8 bytes */
    const int rc = take_uint(s, &u, n);
    if (rc < 0)
        return rc;
    if (b < 0xd0 && u > INT64_MAX)
        return sq_fail(SQ_E_FORMAT, "the integer %" PRIu64 " is out of range", u);
    it->type = INT;
    const unsigned unused = b < 0xd0 ? 0 : (unsigned)(64 - 8 * n);
    it->i = (int64_t)(u << unused) >> unused;
    return 0;
}

static int read_real(struct sq_stream *s, struct item *it, unsigned b)
{
    uint64_t u;
    const int rc = take_uint(s, &u, b == 0xca ? 4 : 8);
    if (rc < 0)
        return rc;
    it->type = REAL;
    if (b == 0xca) {
        const uint32_t u32 = (uint32_t)u;
        float f;
        memcpy(&f, &u32, sizeof f);
        it->f = (double)f;
    } else {
        memcpy(&it->f, &u, sizeof it->f);
    }
    return 0;
}

static int read_length(struct sq_stream *s, struct item *it, enum type type, size_t width)
{
    uint64_t u;
    const int rc = take_uint(s, &u, width);
    it->type = type;
    it->i = (int64_t)u;
    return rc;
}

static int read_item(struct sq_stream *s, struct item *it)
{
    uint8_t b;
    const int rc = take(s, &b, 1);
    if (rc < 0)
        return rc;
    *it = (struct item){.type = INT, .i = b};
    if (b < 0x80)
        return 0;
    if (b >= 0xe0)
        it->i = (int64_t)b - 256;
    else if (b < 0x90)
        *it = (struct item){.type = MAP, .i = b & 15};
    else if (b < 0xa0)
        *it = (struct item){.type = ARRAY, .i = b & 15};
    else if (b < 0xc0)
        *it = (struct item){.type = STR, .i = b & 31};
    else
        switch (b) {
        case 0xc0: it->type = NIL; break;
        case 0xc2: it->type = FALSE_; break;
        case 0xc3: it->type = TRUE_; break;
        case 0xc4: case 0xc5: case 0xc6: return read_length(s, it, BIN, (size_t)1 << (b - 0xc4));
        case 0xca: case 0xcb: return read_real(s, it, b);
        case 0xcc: case 0xcd: case 0xce: case 0xcf:
        case 0xd0: case 0xd1: case 0xd2: case 0xd3: return read_int(s, it, b);
        case 0xd9: case 0xda: case 0xdb: return read_length(s, it, STR, (size_t)1 << (b - 0xd9));
        case 0xdc: case 0xdd: return read_length(s, it, ARRAY, (size_t)2 << (b - 0xdc));
        case 0xde: case 0xdf: return read_length(s, it, MAP, (size_t)2 << (b - 0xde));
        default: return sq_fail(SQ_E_FORMAT, "byte 0x%02x begins no value that a header may have", b);
        }
    return 0;
}

/* n bytes of text on the heap with a final zero; a zero inside would let C and others see different names */
static int read_text(struct sq_stream *s, char **text, int64_t n)
{
    *text = NULL;
    if (n > s->budget)
        return sq_fail(SQ_E_FORMAT, "a string of %" PRId64 " bytes in a header", n);
    int rc = sq_alloc(text, n + 1);
    if (rc == 0)
        rc = take(s, *text, (size_t)n);
    if (rc == 0 && memchr(*text, 0, (size_t)n))
        rc = sq_fail(SQ_E_FORMAT, "the string '%.40s' has a zero byte in it", *text);
    return rc;
}

static int read_value(struct sq_stream *s, json_t **out, int depth);

static int read_string(struct sq_stream *s, json_t **out, int64_t n)
{
    char *text;
    const int rc = read_text(s, &text, n);
    if (rc == 0)
        *out = json_stringn(text, (size_t)n); /* NULL for what is not UTF-8 */
    sq_free(text);
    return rc;
}

static int read_array(struct sq_stream *s, json_t **out, int64_t n, int depth)
{
    *out = json_array();
    for (int64_t i = 0; *out && i < n; i++) {
        json_t *v;
        const int rc = read_value(s, &v, depth + 1);
        if (rc < 0)
            return rc;
        if (json_array_append_new(*out, v) < 0)
            return sq_fail(SQ_E_NOMEM, "no memory for a header");
    }
    return 0;
}

static int read_key(struct sq_stream *s, char **key)
{
    struct item it;
    *key = NULL;
    const int rc = read_item(s, &it);
    if (rc < 0)
        return rc;
    if (it.type != STR)
        return sq_fail(SQ_E_FORMAT, "a member's name is not a string");
    return read_text(s, key, it.i);
}

static int add_member(json_t *obj, const char *key, json_t *v)
{
    if (json_object_get(obj, key)) {
        json_decref(v);
        return sq_fail(SQ_E_FORMAT, "the member '%.60s' is there twice", key);
    }
    if (json_object_set_new(obj, key, v) < 0)
        return sq_fail(SQ_E_FORMAT, "a member's name is not UTF-8");
    return 0;
}

static int read_map(struct sq_stream *s, json_t **out, int64_t n, int depth)
{
    *out = json_object();
    for (int64_t i = 0; *out && i < n; i++) {
        char *key;
        json_t *v = NULL;
        int rc = read_key(s, &key);
        if (rc == 0)
            rc = read_value(s, &v, depth + 1);
        if (rc == 0)
            rc = add_member(*out, key, v);
        sq_free(key);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The value behind the head it; *out is NULL on failure. */
static int finish_value(struct sq_stream *s, json_t **out, const struct item *it, int depth)
{
    int rc = 0;

    *out = NULL;
    if (depth > WIRE_DEPTH)
        return sq_fail(SQ_E_FORMAT, "a header nested deeper than %d", WIRE_DEPTH);
    if (--s->values < 0)
        return sq_fail(SQ_E_FORMAT, "a header of more than %d values", WIRE_VALUES);
    switch (it->type) {
    case INT: *out = json_integer(it->i); break;
    case REAL: *out = json_real(it->f); break;
    case STR: rc = read_string(s, out, it->i); break;
    case ARRAY: rc = read_array(s, out, it->i, depth); break;
    case MAP: rc = read_map(s, out, it->i, depth); break;
    case NIL: *out = json_null(); break;
    case TRUE_: *out = json_true(); break;
    case FALSE_: *out = json_false(); break;
    case BIN: return sq_fail(SQ_E_FORMAT, "binary data in a header");
    }
    if (rc == 0 && !*out)
        rc = sq_fail(SQ_E_FORMAT, it->type == STR ? "a string is not UTF-8"
                                  : it->type == REAL ? "a number is not finite" : "no memory for a header");
    if (rc < 0) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}

static int read_value(struct sq_stream *s, json_t **out, int depth)
{
    struct item it;
    *out = NULL;
    const int rc = read_item(s, &it);
    return rc < 0 ? rc : finish_value(s, out, &it, depth);
}

int wire_decode_map(struct sq_stream *s, int64_t *pairs)
{
    struct item it;
    const int rc = read_item(s, &it);
    if (rc < 0)
        return rc;
    if (it.type != MAP)
        return sq_fail(SQ_E_FORMAT, "a record is not a map");
    *pairs = it.i;
    return 0;
}

int wire_decode(struct sq_stream *s, json_t **out)
{
    int64_t pairs = 0;
    *out = NULL;
    const int rc = wire_decode_map(s, &pairs);
    return rc < 0 ? rc : finish_value(s, out, &(struct item){.type = MAP, .i = pairs}, 1);
}

int wire_decode_member(struct sq_stream *s, json_t *obj, uint32_t *bin)
{
    char *key;
    json_t *v = NULL;
    struct item it;
    int rc = read_key(s, &key);
    if (rc == 0)
        rc = read_item(s, &it);
    if (rc == 0 && it.type == BIN && strcmp(key, "data") == 0) {
        *bin = (uint32_t)it.i;
        rc = 1;
    } else if (rc == 0) {
        rc = finish_value(s, &v, &it, 2);
        if (rc == 0)
            rc = add_member(obj, key, v);
    }
    sq_free(key);
    return rc;
}
