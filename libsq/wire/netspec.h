/* libsq/wire/netspec.h - the grammar of ipc:// and tcp:// endpoints
 *
 *     ["@" | ">"] "ipc://" PATH
 *     ["@" | ">"] "tcp://" HOST ":" PORT
 *
 * "@" binds, ">" connects; without either a reader binds and a writer connects. HOST is an IPv4 address, an IPv6
 * address in brackets, "localhost" (127.0.0.1), a name (where it connects) or "*" (where it binds). */
#ifndef SQ_WIRE_NETSPEC_H
#define SQ_WIRE_NETSPEC_H

#include "sq/stream.h"

enum { NETSPEC_HOST = 256, NETSPEC_PATH = 108, NETSPEC_URL = 320 };

struct netspec {
    bool tcp, binds;
    bool loopback; /* tcp: nobody outside of this machine can reach it; by its text, never by what a name resolves to */
    bool ipv6;
    char host[NETSPEC_HOST]; /* tcp: without brackets */
    int port;
    char path[NETSPEC_PATH]; /* ipc */
};

/* Has spec the form of such an endpoint, well-formed or not? */
bool netspec_is(const char *spec);
/* SQ_E_ARG names what is wrong and what would do. */
int netspec_parse(struct netspec *n, const char *spec, enum sq_dir dir);
/* What libzmq is given: numbers only; a name is looked up here. SQ_E_IO */
int netspec_url(char url[NETSPEC_URL], struct netspec *n, const char *spec);

#endif
