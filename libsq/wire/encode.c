/* Headers as msgpack: integers in their shortest form, members in the order of the json object, so that equal
 * headers are equal bytes. */
#include <msgpack.h>
#include <string.h>

#include "wire.h"

void wire_text_release(struct wire_text *t)
{
    sq_free(t->data);
    *t = (struct wire_text){.data = NULL};
}

static int append(void *data, const char *buf, size_t n)
{
    struct wire_text *t = data;

    if (n > t->cap - t->len) {
        char *larger;
        if (n > SQ_HEADER_MAX || t->len + n > SQ_HEADER_MAX)
            return sq_fail(SQ_E_FORMAT, "a header of more than %d MiB", SQ_HEADER_MAX >> 20);
        const size_t cap = SQ_MAX(2 * t->cap, SQ_MAX(t->len + n, (size_t)1024));
        const int rc = sq_alloc(&larger, (int64_t)cap);
        if (rc < 0)
            return rc;
        if (t->len)
            memcpy(larger, t->data, t->len);
        sq_free(t->data);
        t->data = larger;
        t->cap = cap;
    }
    if (n)
        memcpy(t->data + t->len, buf, n);
    t->len += n;
    return 0;
}

static int put_text(msgpack_packer *p, const char *text, size_t n)
{
    if (memchr(text, 0, n))
        return sq_fail(SQ_E_FORMAT, "the string '%.40s' has a zero byte in it", text);
    const int rc = msgpack_pack_str(p, n);
    return rc < 0 ? rc : msgpack_pack_str_body(p, text, n);
}

static int put_value(msgpack_packer *p, const json_t *v, int depth);

static int put_array(msgpack_packer *p, const json_t *v, int depth)
{
    int rc = msgpack_pack_array(p, json_array_size(v));
    for (size_t i = 0; rc >= 0 && i < json_array_size(v); i++)
        rc = put_value(p, json_array_get(v, i), depth + 1);
    return rc;
}

static int put_map(msgpack_packer *p, const json_t *v, int depth)
{
    const char *key;
    json_t *value;
    int rc = msgpack_pack_map(p, json_object_size(v));
    json_object_foreach((json_t *)(uintptr_t)v, key, value) {
        if (rc >= 0)
            rc = put_text(p, key, strlen(key));
        if (rc >= 0)
            rc = put_value(p, value, depth + 1);
    }
    return rc;
}

static int put_value(msgpack_packer *p, const json_t *v, int depth)
{
    if (depth > WIRE_DEPTH)
        return sq_fail(SQ_E_FORMAT, "a header nested deeper than %d", WIRE_DEPTH);
    switch (json_typeof(v)) {
    case JSON_OBJECT: return put_map(p, v, depth);
    case JSON_ARRAY: return put_array(p, v, depth);
    case JSON_STRING: return put_text(p, json_string_value(v), json_string_length(v));
    case JSON_INTEGER: return msgpack_pack_int64(p, json_integer_value(v));
    case JSON_REAL: return msgpack_pack_double(p, json_real_value(v));
    case JSON_TRUE: return msgpack_pack_true(p);
    case JSON_FALSE: return msgpack_pack_false(p);
    case JSON_NULL: break;
    }
    return msgpack_pack_nil(p);
}

int wire_encode(struct wire_text *t, const json_t *head, int64_t bytes)
{
    const json_t *old = json_object_get(head, "bytes");
    const bool added = !old && bytes > 0;
    msgpack_packer p;
    const char *key;
    json_t *value;

    if (!json_is_object(head))
        return sq_fail(SQ_E_ARG, "a header is a map");
    msgpack_packer_init(&p, t, append);
    int rc = msgpack_pack_map(&p, json_object_size(head) + added);
    json_object_foreach((json_t *)(uintptr_t)head, key, value) {
        if (rc >= 0)
            rc = put_text(&p, key, strlen(key));
        if (rc >= 0)
            rc = value == old && bytes >= 0 ? msgpack_pack_int64(&p, bytes) : put_value(&p, value, 2);
    }
    if (rc >= 0 && added)
        rc = put_text(&p, "bytes", 5);
    if (rc >= 0 && added)
        rc = msgpack_pack_int64(&p, bytes);
    return rc;
}

int wire_encode_chunk(struct wire_text *t, uint32_t n)
{
    msgpack_packer p;
    msgpack_packer_init(&p, t, append);
    int rc = msgpack_pack_map(&p, 3);
    if (rc >= 0)
        rc = put_text(&p, "record", 6);
    if (rc >= 0)
        rc = put_text(&p, "chunk", 5);
    if (rc >= 0)
        rc = put_text(&p, "data", 4);
    return rc < 0 ? rc : msgpack_pack_bin(&p, n);
}

int wire_encode_chunk_end(struct wire_text *t, uint64_t digest)
{
    char text[SQ_HASH_TEXT];
    msgpack_packer p;
    msgpack_packer_init(&p, t, append);
    sq_hash_text(text, digest);
    const int rc = put_text(&p, "xxh3", 4);
    return rc < 0 ? rc : put_text(&p, text, sizeof text - 1);
}
