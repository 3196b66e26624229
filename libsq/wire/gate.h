/* libsq/wire/gate.h - who may finish a handshake with the side that binds: a ZAP handler (rfc.zeromq.org/spec/27)
 *
 * Until the peer is met: whoever is on the list, or everybody where there is none. Afterwards nobody. Its thread answers
 * while the program computes, so that a stranger is told at once. */
#ifndef SQ_WIRE_GATE_H
#define SQ_WIRE_GATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "keyfile.h"

#define GATE_DOMAIN "sq"
enum { GATE_UNKNOWN = 400, GATE_TAKEN = 500 }; /* what the refused one sees */

struct gate {
    void *sock;
    pthread_t thread;
    bool running;
    atomic_bool taken;
    const struct key *allow; /* the caller's, at least until gate_join(); NULL: no keys are asked for */
    int nallow;
};

/* Before the socket that it guards is bound. */
int gate_start(struct gate *g, void *ctx);
/* After zmq_ctx_term(), which ends the thread. */
void gate_join(struct gate *g);

#endif
