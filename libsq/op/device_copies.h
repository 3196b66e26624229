/* Copies between the host's memory and a device's that run beside its work: by way of a ring of pinned buffers, each
 * with one of the device's behind it. Private to op. */
#ifndef SQ_DEVICE_COPIES_H
#define SQ_DEVICE_COPIES_H

#include "sq/device.h"

/* A transfer fills at most one buffer; larger ones are cut. The ring holds two steps' samples of a usual batch. Copying
 * 4 MiB takes 100 us or more, beside which starting it costs little. */
enum { SQ_COPY_BYTES = 4 << 20, SQ_COPY_SLOTS = SQ_GPU_MARKS / 2 };

struct copy_slot {
    void *pinned, *there;
    size_t bytes;      /* of each */
    const void *early; /* whose bytes lie there before somebody asks for them; NULL: nobody's */
    void *to;          /* where bytes that come back go; NULL: none are on their way */
    size_t n;          /* how many, of either */
    uint64_t used;     /* when */
};

struct copies {
    const struct sq_device *lib;
    struct sq_gpu *gpu;
    struct copy_slot slot[SQ_COPY_SLOTS];
    uint64_t now;
};

/* The host's bytes are copied before it returns, and may change then. What is queued on the device from now on finds them
 * at slot->there, until it says copies_used(). NULL: a failure, which the device keeps. */
struct copy_slot *copies_in(struct copies *c, const void *host, size_t bytes);
/* The same of two arrays, one behind the other. */
struct copy_slot *copies_in_two(struct copies *c, const void *a, size_t na, const void *b, size_t nb);
void copies_used(struct copies *c, struct copy_slot *s);

/* Begins what copies_in() of the same bytes will find done. The bytes must not change until then, or until
 * copies_forget(). A hint: with many of them the later ones are not taken. */
void copies_expect(struct copies *c, const void *host, size_t bytes);
void copies_forget(struct copies *c);

/* A buffer for what goes back: filled by work, sent behind it, at `host` after copies_arrive(). */
struct copy_slot *copies_out(struct copies *c, size_t bytes);
void copies_send(struct copies *c, struct copy_slot *s, void *host, size_t bytes);
void copies_arrive(struct copies *c);

#endif
