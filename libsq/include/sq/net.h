/* sq/net.h - what a program was told about its ipc:// and tcp:// endpoints
 *
 * A process has one identity and one idea of patience, as it has one standard error: sq_app_init sets them from the
 * command line, sq_stream_open reads them. */
#ifndef SQ_NET_H
#define SQ_NET_H

#include "sq/app.h"

SQ_BEGIN_DECLS

struct sq_net {
    const char *key;    /* file of this program's secret key, or NULL: no encryption */
    const char *allow;  /* where it binds: file of the public keys that may connect */
    const char *server; /* where it connects: file of the public key of the side that binds */
    bool insecure;      /* tcp beyond loopback without keys is permitted */
    int64_t timeout;    /* seconds without a sign of life after which a peer is given up */
    int64_t wait;       /* seconds in which the peer has to appear; 0: no limit */
};

#define SQ_NET_INIT {.timeout = 30, .wait = 600}
#define SQ_NET_OPTS(n) \
    SQ_OPT_STR(0, "key", &(n).key, "FILE", "tcp: own secret key, made by sq-dump --keygen"), \
    SQ_OPT_STR(0, "allow", &(n).allow, "FILE", "tcp, where it binds: public keys of those who may connect"), \
    SQ_OPT_STR(0, "server", &(n).server, "FILE", "tcp, where it connects: public key of the other side"), \
    SQ_OPT_FLAG(0, "insecure", &(n).insecure, "tcp beyond loopback without keys, open to everyone"), \
    SQ_OPT_INT(0, "timeout", &(n).timeout, 1, 3600, "ipc, tcp: seconds until a peer without a sign of life is given up"), \
    SQ_OPT_INT(0, "wait", &(n).wait, 0, 1 << 30, "ipc, tcp: seconds in which the peer has to appear; 0: for ever")

/* The strings stay the caller's and have to live as long as the process. */
void sq_net_set(const struct sq_net *net);
const struct sq_net *sq_net(void);

SQ_END_DECLS
#endif
