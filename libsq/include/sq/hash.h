/* sq/hash.h - XXH3-64 digests of bytes, written as 16 lower-case hex digits */
#ifndef SQ_HASH_H
#define SQ_HASH_H

#include "sq/base.h"

SQ_BEGIN_DECLS

struct sq_hash {
    void *state; /* XXH3_state_t */
};

enum { SQ_HASH_TEXT = 17 }; /* 16 hex digits and the final NUL */

int sq_hash_init(struct sq_hash *h) SQ_MUSTUSE;
void sq_hash_release(struct sq_hash *h);
/* Forget what was added; dst becomes a copy of src. All of them initialised. */
void sq_hash_reset(struct sq_hash *h);
void sq_hash_copy(struct sq_hash *dst, const struct sq_hash *src);
void sq_hash_add(struct sq_hash *h, const void *data, size_t n);
uint64_t sq_hash_value(const struct sq_hash *h);
uint64_t sq_hash_of(const void *data, size_t n);
void sq_hash_text(char out[SQ_HASH_TEXT], uint64_t value);

SQ_END_DECLS
#endif
