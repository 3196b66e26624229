/* sq/keys.h - key pairs of tcp endpoints (CURVE: Curve25519, as libzmq has it)
 *
 * A secret key is a file with the line "sq-secret-key HEX", of mode 0600; its public key is the line "sq-public-key HEX".
 * A list of keys is such lines one after the other; '#' starts a comment line, what follows HEX is a remark. */
#ifndef SQ_KEYS_H
#define SQ_KEYS_H

#include "sq/base.h"

SQ_BEGIN_DECLS

/* Make a pair: the secret key into path, mode 0600, the public one into path.pub. Neither may exist. SQ_E_IO,
 * SQ_E_UNSUP (built without ZeroMQ). */
int sq_keys_generate(const char *path);

SQ_END_DECLS
#endif
