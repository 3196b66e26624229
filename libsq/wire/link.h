/* libsq/wire/link.h - the sockets under a ZeroMQ endpoint: context, options, keys, handshakes */
#ifndef SQ_WIRE_LINK_H
#define SQ_WIRE_LINK_H

#include <zmq.h>

#include "gate.h"
#include "netspec.h"

enum {
    LINK_DATA = (1 << 20) + (64 << 10), /* bytes of the stream in one message: a slice and the headers around it */
    LINK_CREDITS = 8,                   /* messages under way that the reader has not used up */
    LINK_QUEUE = 2 * (LINK_CREDITS + 4), /* high-water mark: these and the few that carry no data; twice, since libzmq
                                          * counts what was taken out in steps of half of it */
    LINK_CONTROL = 4096,                /* largest message of a handshake or without data */
    LINK_TICK = 200,                    /* ms between two looks at whether a signal came */
};

struct link {
    const char *spec; /* the stream's */
    enum sq_dir dir;
    struct netspec net;
    void *ctx, *sock, *events; /* ROUTER or DEALER; what happens to its connections */
    bool curve, listens;
    struct key *allow; /* where it binds, with keys */
    int nallow;
    struct gate gate;

    bool met;  /* the peer has said what it is */
    bool lost; /* the connection to the peer is gone; there is no other */
    bool down; /* DEALER: its connection is gone, whoever was there */
    int failures; /* handshakes that broke off without a reason, in a row */
    bool warned;
    uint8_t id[256]; /* ROUTER: the peer's routing id */
    size_t idlen;
    int fd;       /* ROUTER: of the peer's connection */
    bool settled; /* ROUTER: what happened to other connections of that number is past */

    int64_t bytes; /* of the stream, sent or received */
    bool eof;      /* reader: the writer has closed */
    bool acked;    /* the end was acknowledged */
    int64_t credits; /* writer: messages that may be sent; reader: messages used up and not reported yet */
    zmq_msg_t msg;   /* reader: the message in hand */
    bool held;
    size_t at; /* reader: its next byte */
};

static inline const char *link_other(const struct link *l)
{
    return l->dir == SQ_READ ? "writer" : "reader";
}

/* Bind or connect as l->spec says, with keys where they are needed. SQ_E_ARG, SQ_E_IO, SQ_E_UNSUP */
int link_open(struct link *l);
/* Close all; what was sent has so many milliseconds to go out. */
void link_close(struct link *l, int linger);
/* Note what happened to connections: lost, failures, met peers of the DEALER. Returns 1 when a DEALER's handshake is
 * done and its greeting is due, 0, or the error of a refused handshake. */
int link_events(struct link *l);
/* ROUTER: the peer is the one that sent m. */
void link_settle(struct link *l, const uint8_t *id, size_t n, zmq_msg_t *m);

#endif
