#include "config.h"

#if SQ_HAVE_ZMQ
#include "gate.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <zmq.h>

#include "sq/fault.h"

/* A request is version, request id, domain, address, routing id, mechanism and, for CURVE, the client's key. */
enum { ID = 1, DOMAIN_ = 2, MECHANISM = 5, KEY = 6, FRAMES = 7, FRAME_MAX = 256 };

struct request {
    char frame[FRAMES][FRAME_MAX];
    size_t len[FRAMES];
    int frames;
};

static int receive(void *sock, struct request *r)
{
    char spare[FRAME_MAX];
    int more = 1;
    size_t size = sizeof more;

    for (r->frames = 0; more; r->frames++) {
        const bool fits = r->frames < FRAMES;
        const int n = zmq_recv(sock, fits ? r->frame[r->frames] : spare, FRAME_MAX, 0);
        if (n < 0)
            return -1;
        if (fits)
            r->len[r->frames] = SQ_MIN((size_t)n, (size_t)FRAME_MAX);
        zmq_getsockopt(sock, ZMQ_RCVMORE, &more, &size);
    }
    return 0;
}

static bool is(const struct request *r, int i, const char *text)
{
    return r->len[i] == strlen(text) && memcmp(r->frame[i], text, r->len[i]) == 0;
}

static bool known(const struct gate *g, const struct request *r)
{
    if (!is(r, DOMAIN_, GATE_DOMAIN))
        return false;
    if (!g->allow)
        return r->frames == KEY && is(r, MECHANISM, "NULL");
    if (r->frames != FRAMES || !is(r, MECHANISM, "CURVE") || r->len[KEY] != KEY_BYTES)
        return false;
    for (int i = 0; i < g->nallow; i++)
        if (memcmp(r->frame[KEY], g->allow[i].byte, KEY_BYTES) == 0)
            return true;
    return false;
}

static void *answer(void *arg)
{
    struct gate *g = arg;
    struct request r;

    while (receive(g->sock, &r) == 0 || errno == EINTR) {
        if (r.frames < KEY)
            memset(r.len, 0, sizeof r.len);
        const char *status = r.frames < KEY || !known(g, &r) ? "400" : atomic_load(&g->taken) ? "500" : "200";
        zmq_send(g->sock, "1.0", 3, ZMQ_SNDMORE);
        zmq_send(g->sock, r.frame[ID], r.len[ID], ZMQ_SNDMORE);
        zmq_send(g->sock, status, 3, ZMQ_SNDMORE);
        zmq_send(g->sock, "", 0, ZMQ_SNDMORE);
        zmq_send(g->sock, "", 0, ZMQ_SNDMORE);
        zmq_send(g->sock, "", 0, 0);
    }
    zmq_close(g->sock);
    return NULL;
}

int gate_start(struct gate *g, void *ctx)
{
    sigset_t all, before;
    int rc = 0;

    g->sock = sq_fault(SQ_FAULT_OPEN) ? NULL : zmq_socket(ctx, ZMQ_REP);
    if (!g->sock || zmq_setsockopt(g->sock, ZMQ_LINGER, &(int){0}, sizeof(int)) < 0 ||
        zmq_bind(g->sock, "inproc://zeromq.zap.01") < 0)
        rc = sq_fail(SQ_E_IO, "ZeroMQ: %s", zmq_strerror(errno));
    sigfillset(&all); /* signals are the program's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (rc == 0 && pthread_create(&g->thread, NULL, answer, g) != 0)
        rc = sq_fail(SQ_E_NOMEM, "no thread for the handshakes of ZeroMQ");
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    g->running = rc == 0;
    if (rc < 0 && g->sock)
        zmq_close(g->sock);
    return rc;
}

void gate_join(struct gate *g)
{
    if (g->running)
        pthread_join(g->thread, NULL);
    g->running = false;
}

#endif
