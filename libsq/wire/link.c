#include "config.h"

#if SQ_HAVE_ZMQ
#include "link.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "sq/fault.h"
#include "sq/net.h"

enum { FAILURES = 3, SELF_TEST_MS = 5000 };

static int failed(const struct link *l, const char *what)
{
    return sq_fail(SQ_E_IO, "'%s': cannot %s: %s", l->spec, what, zmq_strerror(errno));
}

static int set(void *sock, int option, int value)
{
    return zmq_setsockopt(sock, option, &value, sizeof value);
}

/* ---- keys ---- */

/* Whether this endpoint has keys, or may do without. */
static int policy(struct link *l)
{
    const struct sq_net *net = sq_net();
    const char *mine = l->net.binds ? net->allow : net->server;
    const char *want = l->net.binds ? "--allow" : "--server";

    if (!l->net.tcp)
        return 0; /* the socket's file has an owner and a mode */
    l->curve = net->key != NULL;
    if (l->curve && !mine)
        return sq_fail(SQ_E_ARG, "'%s': --key needs %s too: the public key%s of the other side", l->spec, want,
                       l->net.binds ? "s" : "");
    if (!l->curve && mine)
        return sq_fail(SQ_E_ARG, "'%s': %s needs --key too: sq-dump --keygen makes one", l->spec, want);
    if (l->curve || l->net.loopback)
        return 0;
    if (!net->insecure)
        return sq_fail(SQ_E_ARG, "'%s' is reached from other machines: give --key and %s (sq-dump --keygen makes keys; "
                       "sq-stream(7)), or --insecure", l->spec, want);
    sq_log(SQ_WARNING, "'%s' is neither encrypted nor authenticated (--insecure): whoever reaches it can read or forge "
           "the stream", l->spec);
    return 0;
}

static bool apply(void *sock, const struct key *secret, const struct key *public_key, const struct key *server)
{
    bool ok = zmq_setsockopt(sock, ZMQ_CURVE_SECRETKEY, secret->byte, KEY_BYTES) == 0;
    if (server)
        ok = ok && zmq_setsockopt(sock, ZMQ_CURVE_PUBLICKEY, public_key->byte, KEY_BYTES) == 0 &&
             zmq_setsockopt(sock, ZMQ_CURVE_SERVERKEY, server->byte, KEY_BYTES) == 0;
    else
        ok = ok && set(sock, ZMQ_CURVE_SERVER, 1) == 0;
    return ok;
}

static int give_keys(struct link *l, struct key *public_key)
{
    struct key secret = {{0}}, *server = NULL;
    int n = 0, rc;

    SQ_TRY(keyfile_secret(&secret, public_key, sq_net()->key));
    if (l->net.binds) {
        SQ_TRY(keyfile_list(&l->allow, &l->nallow, sq_net()->allow));
        l->gate.allow = l->allow;
        l->gate.nallow = l->nallow;
    } else {
        SQ_TRY(keyfile_list(&server, &n, sq_net()->server));
        if (n != 1)
            SQ_TRY(sq_fail(SQ_E_ARG, "'%s' holds %d keys: --server takes the one of the side that binds",
                           sq_net()->server, n));
    }
    if (!apply(l->sock, &secret, public_key, server))
        SQ_TRY(failed(l, "use CURVE"));
out:
    explicit_bzero(&secret, sizeof secret);
    sq_free(server);
    return rc;
}

/* ---- what happens to connections ---- */

struct event {
    unsigned kind;
    int value;
};

static void *watch(struct link *l, void *sock, const char *name)
{
    const int kinds = ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
                      ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                      ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    void *events = NULL;
    /* without a limit: a full queue would stop the thread that keeps connections alive */
    if (!sq_fault(SQ_FAULT_OPEN) && zmq_socket_monitor(sock, name, kinds) == 0 && (events = zmq_socket(l->ctx, ZMQ_PAIR)) &&
        set(events, ZMQ_RCVHWM, 0) == 0 && set(events, ZMQ_LINGER, 0) == 0 && zmq_connect(events, name) == 0)
        return events;
    if (events)
        zmq_close(events);
    return NULL;
}

static bool next_event(void *events, struct event *e)
{
    uint8_t head[6], address[NETSPEC_URL];
    uint16_t kind;
    uint32_t value;

    if (zmq_recv(events, head, sizeof head, ZMQ_DONTWAIT) != (int)sizeof head)
        return false;
    (void)zmq_recv(events, address, sizeof address, 0);
    memcpy(&kind, head, sizeof kind);
    memcpy(&value, head + sizeof kind, sizeof value);
    *e = (struct event){kind, (int)value};
    return true;
}

/* The side that binds goes on; the one who was refused has been told. */
static void say_refused(struct link *l, const struct event *e)
{
    const char *why = e->kind != ZMQ_EVENT_HANDSHAKE_FAILED_AUTH ? "did not speak as an sq with the right keys does"
                      : e->value == GATE_TAKEN                   ? "came second"
                      : l->curve                                 ? "has a key that is not on the list of --allow"
                                                                 : "was not let in";
    sq_log(l->warned ? SQ_INFO : SQ_WARNING, "'%s': a peer that %s was refused", l->spec, why);
    l->warned = true;
}

static int refused(struct link *l, const struct event *e)
{
    if (e->kind == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
        return e->value == GATE_TAKEN
                   ? sq_fail(SQ_E_PEER, "'%s' has its %s already and refuses a second one", l->spec,
                             l->dir == SQ_READ ? "reader" : "writer")
                   : sq_fail(SQ_E_PEER, "'%s' refuses this key: the other side's --allow does not list it", l->spec);
    if (e->kind == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL && ++l->failures < FAILURES)
        return 0; /* one that is just going away, perhaps */
    return sq_fail(SQ_E_PEER, "'%s': the other side broke off the handshake: %s", l->spec,
                   l->curve ? "is --server its public key, and was it given --key?" : "is it an sq, and does it ask for keys?");
}

int link_events(struct link *l)
{
    struct event e;
    int rc = 0;

    while (rc >= 0 && next_event(l->events, &e)) {
        if (e.kind == ZMQ_EVENT_DISCONNECTED || e.kind == ZMQ_EVENT_HANDSHAKE_SUCCEEDED)
            l->down = e.kind == ZMQ_EVENT_DISCONNECTED;
        if (e.kind == ZMQ_EVENT_DISCONNECTED)
            l->lost |= l->net.binds ? l->met && e.value == l->fd : l->met;
        else if (e.kind == ZMQ_EVENT_ACCEPTED)
            l->lost &= l->settled || e.value != l->fd;
        else if (e.kind == ZMQ_EVENT_HANDSHAKE_SUCCEEDED)
            rc = l->net.binds || l->met ? rc : 1;
        else if (l->net.binds)
            say_refused(l, &e);
        else if (!l->met)
            rc = refused(l, &e);
    }
    return rc;
}

void link_settle(struct link *l, const uint8_t *id, size_t n, zmq_msg_t *m)
{
    memcpy(l->id, id, n);
    l->idlen = n;
    l->fd = zmq_msg_get(m, ZMQ_SRCFD);
    l->met = true;
    atomic_store(&l->gate.taken, true);
    (void)link_events(l);
    l->settled = true;
}

/* ---- opening ---- */

/* The list is worth what it refuses: a key that nobody knows comes and has to be turned away. */
static int self_test(struct link *l, const struct key *server, const char *url)
{
    struct key secret, public_key;
    struct event e = {0, 0};
    void *sock = zmq_socket(l->ctx, ZMQ_DEALER), *events = NULL;
    int rc = keyfile_random(&secret, &public_key);

    if (rc == 0 && (!sock || !apply(sock, &secret, &public_key, server) || set(sock, ZMQ_LINGER, 0) < 0 ||
                    set(sock, ZMQ_IPV6, l->net.ipv6) < 0 || !(events = watch(l, sock, "inproc://sq-self-test")) ||
                    zmq_connect(sock, url) < 0))
        rc = failed(l, "test the keys");
    for (const double end = sq_now() + 1e-3 * SELF_TEST_MS; rc == 0 && sq_now() < end;) {
        zmq_pollitem_t item = {events, 0, ZMQ_POLLIN, 0};
        (void)zmq_poll(&item, 1, LINK_TICK);
        if (next_event(events, &e) && (e.kind == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH || e.kind == ZMQ_EVENT_HANDSHAKE_SUCCEEDED))
            break;
    }
    if (rc == 0 && e.kind != ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
        rc = sq_fail(SQ_E_IO, "'%s': an unknown key was %s: not safe, so not opened", l->spec,
                     e.kind == ZMQ_EVENT_HANDSHAKE_SUCCEEDED ? "let in" : "not refused in time");
    explicit_bzero(&secret, sizeof secret);
    if (sock)
        (void)zmq_socket_monitor(sock, NULL, 0); /* who reports to nobody waits for somebody */
    if (events)
        zmq_close(events);
    if (sock)
        zmq_close(sock);
    return rc;
}

/* What is at the path already: nothing, a socket that a killed program left behind, or something to keep. */
static int clear_path(const struct link *l)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat st;

    if (lstat(l->net.path, &st) < 0)
        return errno == ENOENT ? 0 : sq_fail(SQ_E_IO, "'%s': %s", l->spec, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return sq_fail(SQ_E_ARG, "'%s': there is a file of that name, which is no socket", l->spec);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", l->net.path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool used = fd >= 0 && connect(fd, (const struct sockaddr *)&a, sizeof a) == 0;
    if (fd >= 0)
        close(fd);
    return used ? sq_fail(SQ_E_IO, "'%s': another program listens there", l->spec) : 0;
}

static int bind_socket(struct link *l, const struct key *public_key, const char *url)
{
    char any[NETSPEC_URL]; /* "*" seen from this machine */
    int rc = l->net.tcp ? 0 : clear_path(l);

    if (rc < 0 || (rc = gate_start(&l->gate, l->ctx)) < 0)
        return rc;
    const mode_t before = umask(0177); /* the socket's file is its owner's alone */
    if (sq_fault(SQ_FAULT_OPEN) || zmq_bind(l->sock, url) < 0)
        rc = failed(l, "listen there");
    l->listens = rc == 0;
    umask(before);
    snprintf(any, sizeof any, "tcp://127.0.0.1:%d", l->net.port);
    if (rc == 0 && l->curve)
        rc = self_test(l, public_key, strcmp(l->net.host, "*") == 0 ? any : url);
    if (rc == 0 && !(l->events = watch(l, l->sock, "inproc://sq-events")))
        rc = failed(l, "watch it");
    return rc;
}

static int connect_socket(struct link *l, const char *url)
{
    if (!(l->events = watch(l, l->sock, "inproc://sq-events")))
        return failed(l, "watch it");
    return sq_fault(SQ_FAULT_OPEN) || zmq_connect(l->sock, url) < 0 ? failed(l, "connect") : 0;
}

/* Messages from the heap, whose pages stay when they are freed; mapped ones cost their page faults again each. */
static void keep_pages(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, 4 * LINK_DATA);
    (void)mallopt(M_TRIM_THRESHOLD, 4 * LINK_CREDITS * LINK_DATA);
}

/* A frozen or cut-off peer is noticed by libzmq's own heartbeats. They come through because credits, not full queues,
 * hold the writer back: a queue that is full would stop the reader's side from hearing anything. */
static int make_socket(struct link *l)
{
    const int ms = (int)sq_net()->timeout * 1000;
    const int64_t largest = (l->dir == SQ_READ ? LINK_DATA : 0) + LINK_CONTROL;

    if (sq_fault(SQ_FAULT_OPEN) || !(l->ctx = zmq_ctx_new()) || !(l->sock = zmq_socket(l->ctx, l->net.binds ? ZMQ_ROUTER : ZMQ_DEALER)))
        return failed(l, "make a socket");
    if (set(l->sock, ZMQ_SNDHWM, LINK_QUEUE) < 0 || set(l->sock, ZMQ_RCVHWM, LINK_QUEUE) < 0 ||
        zmq_setsockopt(l->sock, ZMQ_MAXMSGSIZE, &largest, sizeof largest) < 0 || set(l->sock, ZMQ_LINGER, 0) < 0 ||
        set(l->sock, ZMQ_HEARTBEAT_IVL, ms / 4) < 0 || set(l->sock, ZMQ_HEARTBEAT_TIMEOUT, ms / 2) < 0 ||
        set(l->sock, ZMQ_HANDSHAKE_IVL, SQ_MIN(ms, 5000)) < 0 || set(l->sock, ZMQ_RECONNECT_IVL, 10) < 0 ||
        set(l->sock, ZMQ_RECONNECT_IVL_MAX, 1000) < 0 || set(l->sock, ZMQ_IPV6, l->net.ipv6) < 0)
        return failed(l, "set it up");
    if (l->net.binds && (set(l->sock, ZMQ_ROUTER_MANDATORY, 1) < 0 || set(l->sock, ZMQ_BACKLOG, 16) < 0 ||
                         zmq_setsockopt(l->sock, ZMQ_ZAP_DOMAIN, GATE_DOMAIN, strlen(GATE_DOMAIN)) < 0))
        return failed(l, "set it up");
    return 0;
}

int link_open(struct link *l)
{
    struct key public_key;
    char url[NETSPEC_URL];
    int rc;

    keep_pages();
    l->fd = -1;
    SQ_TRY(netspec_parse(&l->net, l->spec, l->dir));
    SQ_TRY(policy(l));
    SQ_TRY(netspec_url(url, &l->net, l->spec));
    SQ_TRY(make_socket(l));
    if (l->curve)
        SQ_TRY(give_keys(l, &public_key));
    SQ_TRY(l->net.binds ? bind_socket(l, &public_key, url) : connect_socket(l, url));
out:
    return rc;
}

void link_close(struct link *l, int linger)
{
    if (l->listens && !l->net.tcp)
        unlink(l->net.path); /* libzmq leaves it */
    if (l->sock) {
        (void)set(l->sock, ZMQ_LINGER, linger);
        zmq_close(l->sock);
    }
    if (l->events)
        zmq_close(l->events);
    while (l->ctx && zmq_ctx_term(l->ctx) < 0 && errno == EINTR)
        ;
    gate_join(&l->gate);
    sq_free(l->allow);
}

#endif
