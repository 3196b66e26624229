/* libsq/wire/keyfile.h - reading the files of sq/keys.h */
#ifndef SQ_WIRE_KEYFILE_H
#define SQ_WIRE_KEYFILE_H

#include "sq/keys.h"

enum { KEY_BYTES = 32, KEY_LIST = 1024 };

struct key {
    uint8_t byte[KEY_BYTES];
};

/* The secret key of a file that only its owner can read, and the public key that belongs to it. The caller wipes
 * *secret. SQ_E_ARG says what is wrong with the file and what to do. */
int keyfile_secret(struct key *secret, struct key *public_key, const char *path);
/* All public keys of a file: 1 to KEY_LIST; *list is the caller's, sq_free() it. */
int keyfile_list(struct key **list, int *n, const char *path);
/* A pair that nobody has seen before. */
int keyfile_random(struct key *secret, struct key *public_key);

#endif
