/* Streams over ZeroMQ: a ROUTER that takes one peer, a DEALER that connects to it. Each message is a kind and its data:
 *
 *     DEALER      H  "sq", version, 'r' or 'w'    I am that side of a stream
 *     ROUTER      W                               you are my peer
 *                 R  reason                       you are not
 *     writer      D  bytes of the stream          costs a credit; it has LINK_CREDITS at the start
 *                 E                               no more bytes: the stream is over, complete or not
 *     reader      C  n                            n credits more
 *                 A  u64, big-endian              the end record is good after so many bytes
 *                 L                               it leaves before the end
 *
 * A stream belongs to one connection: when that is gone, so is the stream. Where messages begin and end means nothing
 * to the stream. */
#include <errno.h>
#include <string.h>

#include "config.h"
#include "netspec.h"
#include "wire.h"

#if SQ_HAVE_ZMQ
#include "link.h"
#include "sq/fault.h"
#include "sq/net.h"
#include "sq/stop.h"

enum { VERSION = 1, HELLO = 5, LINGER = 5000, FAREWELL = 2 };
enum reason { TAKEN = 1, SAME_SIDE, OTHER_VERSION };

/* ---- sending ---- */

static int gone(const struct link *l)
{
    return sq_fail(SQ_E_PEER,
                   "'%s': lost the %s: it ended, was cut off, or gave no sign of life for %" PRId64 " s (--timeout)",
                   l->spec, link_other(l), sq_net()->timeout);
}

/* To the peer, or where it binds to the one named; takes m. False: there is no such connection any more. */
static bool send_to(struct link *l, const uint8_t *id, size_t n, zmq_msg_t *m)
{
    if ((l->net.binds && zmq_send(l->sock, id, n, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) ||
        zmq_msg_send(m, l->sock, ZMQ_DONTWAIT) < 0) {
        zmq_msg_close(m);
        return false;
    }
    return true;
}

static bool say(struct link *l, char kind, const void *data, size_t n)
{
    zmq_msg_t m;
    if (zmq_msg_init_size(&m, 1 + n) < 0)
        return false;
    memcpy(zmq_msg_data(&m), &kind, 1);
    if (n)
        memcpy((char *)zmq_msg_data(&m) + 1, data, n);
    return send_to(l, l->id, l->idlen, &m);
}

static void put_u64(uint8_t b[8], uint64_t x)
{
    for (int i = 0; i < 8; i++)
        b[i] = (uint8_t)(x >> (56 - 8 * i));
}

static uint64_t get_u64(const uint8_t b[8])
{
    uint64_t x = 0;
    for (int i = 0; i < 8; i++)
        x = x << 8 | b[i];
    return x;
}

/* ---- receiving ---- */

static int strange(const struct link *l)
{
    return sq_fail(SQ_E_FORMAT, "'%s': the %s does not follow the protocol of sq streams", l->spec, link_other(l));
}

static char side(enum sq_dir dir)
{
    return dir == SQ_READ ? 'r' : 'w';
}

/* ROUTER: somebody who is not the peer. Only a greeting gets an answer. */
static void meet_stranger(struct link *l, const uint8_t *id, size_t n, zmq_msg_t *m)
{
    const uint8_t *p = zmq_msg_data(m);
    if (zmq_msg_size(m) != HELLO || memcmp(p, "Hsq", 3) != 0)
        return;
    const enum reason no = l->met                      ? TAKEN
                           : p[3] != VERSION           ? OTHER_VERSION
                           : p[4] == side(l->dir)      ? SAME_SIDE
                                                       : 0;
    zmq_msg_t answer;
    if (zmq_msg_init_size(&answer, no ? 2 : 1) < 0)
        return;
    memcpy(zmq_msg_data(&answer), no ? (const char[]){'R', (char)no} : "W", no ? 2 : 1);
    if (send_to(l, id, n, &answer) && !no)
        link_settle(l, id, n, m);
}

static int refused(const struct link *l, int reason)
{
    if (reason == SAME_SIDE)
        return sq_fail(SQ_E_ARG, "'%s': both sides are %ss: one side needs -i, the other -o", l->spec,
                       l->dir == SQ_READ ? "reader" : "writer");
    if (reason == OTHER_VERSION)
        return sq_fail(SQ_E_UNSUP, "'%s': the other side speaks another version of this protocol", l->spec);
    return sq_fail(SQ_E_PEER, "'%s' has its %s already and refuses a second one", l->spec,
                   l->dir == SQ_READ ? "reader" : "writer");
}

static int take_credits(struct link *l, const uint8_t *p, size_t n)
{
    if (n != 1 || l->credits + p[0] > LINK_CREDITS)
        return strange(l);
    l->credits += p[0];
    return 0;
}

static int take_end(struct link *l, const uint8_t *p, size_t n)
{
    if (n != 8 || get_u64(p) != (uint64_t)l->bytes)
        return strange(l);
    l->acked = true;
    return 0;
}

/* A message of the peer; data stays in l->msg. */
static int understand(struct link *l)
{
    const uint8_t *p = zmq_msg_data(&l->msg);
    const size_t n = zmq_msg_size(&l->msg);
    const char kind = n ? (char)*p : 0;

    if (!l->met) { /* a DEALER's: the answer to its greeting */
        l->met = kind == 'W' && n == 1;
        l->lost |= l->met && l->down; /* it went before its answer was read */
        return l->met ? 0 : kind == 'R' && n == 2 ? refused(l, p[1]) : strange(l);
    }
    if (l->dir == SQ_READ) {
        l->eof |= kind == 'E';
        l->held = kind == 'D';
        l->at = 1;
        return l->held || kind == 'E' ? 0 : strange(l);
    }
    if (kind == 'L' && !l->acked)
        return sq_fail(SQ_E_PEER, "'%s': the reader left before the end of the stream", l->spec);
    return kind == 'C' ? take_credits(l, p + 1, n - 1) : kind == 'A' ? take_end(l, p + 1, n - 1) : strange(l);
}

/* One message: 1, or 0 when there is none. */
static int receive(struct link *l)
{
    uint8_t id[sizeof l->id];
    zmq_msg_t rest;
    int n = 0, rc = 0;

    if (l->net.binds && (n = zmq_recv(l->sock, id, sizeof id, ZMQ_DONTWAIT)) < 0)
        return 0;
    if (zmq_msg_recv(&l->msg, l->sock, ZMQ_DONTWAIT) < 0)
        return 0;
    const bool parts = zmq_msg_more(&l->msg);
    for (bool more = parts; more; zmq_msg_close(&rest)) { /* of a stranger: nobody here sends such */
        zmq_msg_init(&rest);
        more = zmq_msg_recv(&rest, l->sock, ZMQ_DONTWAIT) >= 0 && zmq_msg_more(&rest);
    }
    const bool peer = !l->net.binds || (l->met && (size_t)n == l->idlen && memcmp(id, l->id, l->idlen) == 0);
    if (peer)
        rc = parts ? strange(l) : understand(l);
    else if (!parts)
        meet_stranger(l, id, (size_t)n, &l->msg);
    return rc < 0 ? rc : 1;
}

/* Take note of all that has come; where nothing had, of what comes within ms. Data in hand stops it. */
static int turn(struct link *l, long ms)
{
    const uint8_t hello[HELLO - 1] = {'s', 'q', VERSION, (uint8_t)side(l->dir)};
    zmq_pollitem_t item[] = {{l->sock, 0, ZMQ_POLLIN, 0}, {l->events, 0, ZMQ_POLLIN, 0}};
    bool news = false;
    int rc;

    for (;;) {
        SQ_TRY(link_events(l));
        if (rc > 0)
            (void)say(l, 'H', hello, sizeof hello);
        while (!l->held && (rc = receive(l)) > 0)
            news = true;
        if (rc < 0)
            return rc;
        if (l->lost && !l->held && !l->eof && !l->acked)
            return gone(l);
        if (news || l->held || ms == 0)
            return 0;
        SQ_TRY(sq_stop_check());
        if (zmq_poll(item, SQ_COUNT(item), ms) < 0 && errno != EINTR)
            return sq_fail(SQ_E_IO, "'%s': %s", l->spec, zmq_strerror(errno));
        ms = 0;
    }
out:
    return rc;
}

/* ---- the transport ---- */

static int wait_for_peer(struct link *l)
{
    const int64_t wait = sq_net()->wait;
    const double end = sq_now() + (double)wait;
    int rc = 0;

    sq_log(SQ_INFO, "'%s': waiting for the %s", l->spec, link_other(l));
    while (rc == 0 && !l->met) {
        if (wait && sq_now() > end)
            return sq_fail(SQ_E_PEER, "'%s': no %s came within %" PRId64 " s (--wait)", l->spec, link_other(l), wait);
        rc = turn(l, LINK_TICK);
    }
    return rc;
}

static int open_zmq(struct sq_stream *s, const char *spec)
{
    struct link *l;
    int rc;

    SQ_TRY(sq_strdup(&s->path, spec));
    SQ_TRY(sq_alloc(&s->link, 1));
    l = s->link;
    l->spec = s->path;
    l->dir = s->dir;
    l->credits = s->dir == SQ_WRITE ? LINK_CREDITS : 0;
    zmq_msg_init(&l->msg);
    SQ_TRY(link_open(l));
    SQ_TRY(wait_for_peer(l));
out:
    return rc;
}

/* The message in hand is used up: credit goes back in halves of what there is. */
static void let_go(struct link *l)
{
    zmq_msg_close(&l->msg);
    zmq_msg_init(&l->msg);
    l->held = false;
    if (++l->credits >= LINK_CREDITS / 2) {
        l->lost |= !say(l, 'C', &(uint8_t){(uint8_t)l->credits}, 1);
        l->credits = 0;
    }
}

static int64_t read_zmq(struct sq_stream *s, void *dst, size_t n)
{
    struct link *l = s->link;
    int rc = 0;

    for (;;) {
        const size_t left = l->held ? zmq_msg_size(&l->msg) - l->at : 0;
        if (left) {
            const size_t k = SQ_MIN(n, left);
            memcpy(dst, (const uint8_t *)zmq_msg_data(&l->msg) + l->at, k);
            l->at += k;
            l->bytes += (int64_t)k;
            if (k == left)
                let_go(l);
            return (int64_t)k;
        }
        if (l->held)
            let_go(l);
        if (l->eof)
            return 0;
        SQ_TRY(turn(l, LINK_TICK));
    }
out:
    return rc;
}

static int send_data(struct link *l, const void *a, size_t na, const void *b, size_t nb)
{
    zmq_msg_t m;
    if (sq_fault(SQ_FAULT_ALLOC) || zmq_msg_init_size(&m, 1 + na + nb) < 0)
        return sq_fail(SQ_E_NOMEM, "no memory for a message of %zu bytes", na + nb);
    uint8_t *to = zmq_msg_data(&m);
    *to = 'D';
    if (na)
        memcpy(to + 1, a, na);
    if (nb)
        memcpy(to + 1 + na, b, nb);
    if (!send_to(l, l->id, l->idlen, &m))
        return gone(l);
    l->bytes += (int64_t)(na + nb);
    l->credits--;
    return 0;
}

static int write_zmq(struct sq_stream *s, const void *a, size_t na, const void *b, size_t nb)
{
    struct link *l = s->link;
    int rc = 0;

    while (na + nb) {
        const size_t ka = SQ_MIN(na, (size_t)LINK_DATA), kb = SQ_MIN(nb, LINK_DATA - ka);
        SQ_TRY(turn(l, 0));
        while (l->credits == 0 && !s->aborting)
            SQ_TRY(turn(l, LINK_TICK));
        SQ_TRY(send_data(l, a, ka, b, kb));
        a = (const char *)a + ka;
        b = (const char *)b + kb;
        na -= ka;
        nb -= kb;
    }
out:
    return rc;
}

static int end_zmq(struct sq_stream *s)
{
    struct link *l = s->link;
    uint8_t bytes[8];

    if (!l->held && !l->eof)
        (void)turn(l, 0); /* a writer that is gone has nothing more to say */
    if (l->held && l->at < zmq_msg_size(&l->msg))
        return wire_bytes_follow();
    put_u64(bytes, (uint64_t)l->bytes);
    l->acked = true;
    if (!say(l, 'A', bytes, sizeof bytes))
        sq_log(SQ_INFO, "'%s': the writer left without waiting for the acknowledgement of its end", l->spec);
    return 0;
}

/* The last words of each side, as long as there is somebody to hear them. */
static int part(struct link *l, bool ok)
{
    int rc = 0;

    if (l->dir == SQ_WRITE && ok)
        while (rc == 0 && !l->acked)
            rc = turn(l, LINK_TICK);
    else if (l->dir == SQ_WRITE)
        (void)say(l, 'E', NULL, 0);
    else if (!l->acked)
        (void)say(l, 'L', NULL, 0);
    else /* who closes first might take the acknowledgement with it */
        for (const double end = sq_now() + FAREWELL; !l->lost && !l->eof && sq_now() < end && turn(l, LINK_TICK) == 0;)
            ;
    return rc;
}

static int shut_zmq(struct sq_stream *s, bool ok)
{
    struct link *l = s->link;
    int rc = 0;

    if (!l)
        return 0;
    if (l->met && !l->lost)
        rc = part(l, ok);
    zmq_msg_close(&l->msg);
    link_close(l, !l->met || l->lost || (l->dir == SQ_WRITE && ok) ? 0 : sq_stopped() ? LINGER / 5 : LINGER);
    sq_free(l);
    s->link = NULL;
    return rc;
}

#else

static int open_zmq(struct sq_stream *s, const char *spec)
{
    struct netspec n;
    const int rc = netspec_parse(&n, spec, s->dir);
    return rc < 0 ? rc
                  : sq_fail(SQ_E_UNSUP, "'%s': this sq was built without ZeroMQ: install libzmq3-dev and build again", spec);
}

static int64_t read_zmq(struct sq_stream *s, void *dst, size_t n)
{
    return (void)s, (void)dst, (void)n, -1;
}

static int write_zmq(struct sq_stream *s, const void *a, size_t na, const void *b, size_t nb)
{
    return (void)s, (void)a, (void)na, (void)b, (void)nb, -1;
}

static int end_zmq(struct sq_stream *s)
{
    return (void)s, -1;
}

static int shut_zmq(struct sq_stream *s, bool ok)
{
    return (void)s, (void)ok, 0;
}

#endif

const struct wire_transport wire_zmq = {netspec_is, open_zmq, read_zmq, write_zmq, end_zmq, shut_zmq};
