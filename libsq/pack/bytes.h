/* A growing byte string, and GGUF key/value pairs in it. Errors are sticky: after the first one nothing is added and
 * bytes_finish returns it. */
#ifndef SQ_PACK_BYTES_H
#define SQ_PACK_BYTES_H

#include "sq/base.h"

struct bytes {
    uint8_t *p;
    size_t n, cap;
    int64_t pairs; /* key/value pairs added */
    int rc;
};

enum gguf_value { GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING,
                  GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64 };

void bytes_add(struct bytes *b, const void *data, size_t n);
void bytes_u32(struct bytes *b, uint32_t v);
void bytes_u64(struct bytes *b, uint64_t v);
void bytes_str(struct bytes *b, const char *s, size_t n); /* u64 length and the text */
void bytes_pad(struct bytes *b, size_t align);
void bytes_release(struct bytes *b);

void kv_u32(struct bytes *b, const char *key, int64_t v); /* 0 .. 2^32 - 1 */
void kv_f32(struct bytes *b, const char *key, double v);
void kv_bool(struct bytes *b, const char *key, bool v);
void kv_str(struct bytes *b, const char *key, const char *s, size_t n);
/* Key, array, element type and count; the caller adds the elements. */
void kv_array(struct bytes *b, const char *key, enum gguf_value type, int64_t n);

#endif
