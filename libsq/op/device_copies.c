#include "device_copies.h"

#include <string.h>

int64_t sq_device_copies_bytes(int64_t most)
{
    return SQ_COPY_SLOTS * SQ_MIN(most, (int64_t)SQ_COPY_BYTES);
}

/* A slot has two marks: the last copy through it, the last work on it. */
static int mark_of(const struct copies *c, const struct copy_slot *s, enum sq_queue q)
{
    return 2 * (int)(s - c->slot) + (int)q;
}

static void stamp(struct copies *c, struct copy_slot *s, enum sq_queue q)
{
    c->lib->mark(c->gpu, mark_of(c, s, q), q);
}

/* Its pinned bytes are the host's again; those that came back are delivered. */
static void settle(struct copies *c, struct copy_slot *s)
{
    const int rc = c->lib->reach(c->gpu, mark_of(c, s, SQ_QUEUE_COPY));
    if (s->to && rc == 0)
        memcpy(s->to, s->pinned, s->n);
    s->to = NULL;
}

static bool grow(struct copies *c, struct copy_slot *s, size_t bytes)
{
    if (bytes <= s->bytes)
        return true;
    (void)c->lib->sync(c->gpu);
    c->lib->free(c->gpu, s->there);
    c->lib->free_pinned(c->gpu, s->pinned);
    *s = (struct copy_slot){.used = s->used};
    if (c->lib->alloc(c->gpu, &s->there, bytes) < 0 || c->lib->alloc_pinned(c->gpu, &s->pinned, bytes) < 0)
        return false;
    s->bytes = bytes;
    return true;
}

/* The one that rests longest, those with early bytes last. */
static struct copy_slot *take(struct copies *c, size_t bytes)
{
    struct copy_slot *s = c->slot;
    for (int i = 1; i < SQ_COPY_SLOTS; i++) {
        struct copy_slot *x = &c->slot[i];
        if (!x->early == !s->early ? x->used < s->used : !x->early)
            s = x;
    }
    settle(c, s);
    s->early = NULL;
    s->used = ++c->now;
    return grow(c, s, bytes) ? s : NULL;
}

static void begin(struct copies *c, struct copy_slot *s, size_t bytes)
{
    s->n = bytes;
    c->lib->after(c->gpu, SQ_QUEUE_COPY, mark_of(c, s, SQ_QUEUE_WORK));
    c->lib->put(c->gpu, SQ_QUEUE_COPY, s->there, s->pinned, bytes);
    stamp(c, s, SQ_QUEUE_COPY);
}

static struct copy_slot *found(struct copies *c, const void *host, size_t bytes)
{
    for (int i = 0; i < SQ_COPY_SLOTS; i++)
        if (c->slot[i].early == host && c->slot[i].n == bytes)
            return &c->slot[i];
    return NULL;
}

struct copy_slot *copies_in_two(struct copies *c, const void *a, size_t na, const void *b, size_t nb)
{
    struct copy_slot *s = take(c, na + nb);
    if (!s)
        return NULL;
    memcpy(s->pinned, a, na);
    if (nb)
        memcpy((char *)s->pinned + na, b, nb);
    begin(c, s, na + nb);
    c->lib->after(c->gpu, SQ_QUEUE_WORK, mark_of(c, s, SQ_QUEUE_COPY));
    return s;
}

struct copy_slot *copies_in(struct copies *c, const void *host, size_t bytes)
{
    struct copy_slot *s = found(c, host, bytes);
    if (!s)
        return copies_in_two(c, host, bytes, NULL, 0);
    s->early = NULL;
    c->lib->after(c->gpu, SQ_QUEUE_WORK, mark_of(c, s, SQ_QUEUE_COPY));
    return s;
}

void copies_used(struct copies *c, struct copy_slot *s)
{
    stamp(c, s, SQ_QUEUE_WORK);
}

void copies_expect(struct copies *c, const void *host, size_t bytes)
{
    int early = 0;
    for (int i = 0; i < SQ_COPY_SLOTS; i++)
        early += c->slot[i].early != NULL;
    if (early >= SQ_COPY_SLOTS / 2 || found(c, host, bytes))
        return;
    struct copy_slot *s = take(c, bytes);
    if (!s)
        return;
    memcpy(s->pinned, host, bytes);
    begin(c, s, bytes);
    s->early = host;
}

void copies_forget(struct copies *c)
{
    for (int i = 0; i < SQ_COPY_SLOTS; i++)
        c->slot[i].early = NULL;
}

struct copy_slot *copies_out(struct copies *c, size_t bytes)
{
    struct copy_slot *s = take(c, bytes);
    if (s)
        c->lib->after(c->gpu, SQ_QUEUE_WORK, mark_of(c, s, SQ_QUEUE_COPY));
    return s;
}

void copies_send(struct copies *c, struct copy_slot *s, void *host, size_t bytes)
{
    stamp(c, s, SQ_QUEUE_WORK);
    c->lib->after(c->gpu, SQ_QUEUE_COPY, mark_of(c, s, SQ_QUEUE_WORK));
    c->lib->get(c->gpu, SQ_QUEUE_COPY, s->pinned, s->there, bytes);
    stamp(c, s, SQ_QUEUE_COPY);
    s->to = host;
    s->n = bytes;
}

void copies_arrive(struct copies *c)
{
    for (int i = 0; i < SQ_COPY_SLOTS; i++)
        if (c->slot[i].to)
            settle(c, &c->slot[i]);
}
