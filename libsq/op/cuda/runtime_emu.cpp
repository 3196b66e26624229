/* The emulator's runtime: device memory is the process's, but counted and known by its addresses; a stream is a list of
 * what is to be done. */
#include "runtime.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <deque>
#include <map>
#include <vector>

const char gpu_runtime_name[] = "emu";

/* Two of them: one with a unit for bf16, one without. */
static const int capabilities[] = {80, 75};

/* Something to do, or to wait for. */
struct item {
    std::function<void()> run;
    int queue; /* when this stream has done `many` items: only then; -1: at once */
    int64_t many;
};

struct queue {
    std::deque<item> items;
    int64_t added, done;
};

struct place {
    int queue;
    int64_t many;
};

struct gpu_runtime {
    queue queues[2] = {};
    place mark[SQ_GPU_MARKS] = {};
    bool records = false;
    std::vector<item> now, recording[SQ_GPU_RECORDINGS];
    uint64_t random = 1;
    int first = 0, turns = 0; /* which stream goes on as long as it can, for so many items */
};

void gpu_launched(struct sq_gpu *, const char *)
{
}

/* ---- memory ---- */

/* How much an emulated device has: SQ_EMU_BYTES, or as much as there is. */
static size_t emulated_bytes()
{
    const char *s = getenv("SQ_EMU_BYTES");
    return s ? strtoull(s, nullptr, 10) : 0;
}

static size_t taken;

/* What there is of device memory, by its first byte. */
static std::map<uintptr_t, size_t> owned;

bool gpu_owns(const void *p)
{
    const uintptr_t at = (uintptr_t)p;
    auto next = owned.upper_bound(at);
    if (!p || next == owned.begin())
        return !p;
    const auto &range = *--next;
    return at <= range.first + range.second; /* one behind the end is an address of the array */
}

bool gpu_is_host(const void *word)
{
    const uintptr_t page = 4096, at = (uintptr_t)word;
    if (at < (uintptr_t)1 << 32 || at >= (uintptr_t)1 << 47 || gpu_owns(word))
        return false;
    return msync((void *)(at / page * page), 1, MS_ASYNC) == 0; /* ENOMEM: nothing is there, so it is a number */
}

/* what is read before it is written is NaN */
static int alloc_poisoned(struct sq_gpu *g, void **out, size_t bytes, size_t most, const char *kind)
{
    *out = bytes <= most ? aligned_alloc(256, (bytes + 256) / 256 * 256) : nullptr;
    if (*out) {
        memset(*out, 0xff, bytes);
        return 0;
    }
    gpu_no_memory(g, bytes, kind);
    return SQ_E_NOMEM;
}

int gpu_alloc_host(struct sq_gpu *g, void **out, size_t bytes)
{
    return alloc_poisoned(g, out, bytes, SIZE_MAX, "pinned");
}

int gpu_alloc(struct sq_gpu *g, void **out, size_t bytes)
{
    const size_t all = emulated_bytes(), most = all > taken ? all - taken : 0;
    const int rc = alloc_poisoned(g, out, bytes, all > 0 ? most : SIZE_MAX, "its");
    if (rc == 0) {
        taken += malloc_usable_size(*out);
        owned[(uintptr_t)*out] = bytes;
    }
    return rc;
}

void gpu_release(void *p)
{
    if (!p)
        return;
    taken -= malloc_usable_size(p);
    owned.erase((uintptr_t)p);
    free(p);
}

void gpu_release_host(void *p)
{
    free(p);
}

/* ---- devices ---- */

int gpu_count(char *, size_t)
{
    return (int)SQ_COUNT(capabilities);
}

bool gpu_start(struct sq_gpu *g)
{
    const char *seed = getenv("SQ_EMU_SEED");
    g->capability = g->code = capabilities[g->device];
    g->stream[0] = g->stream[1] = g;
    g->runtime = new gpu_runtime;
    g->runtime->random += seed ? strtoull(seed, nullptr, 10) : 0;
    return true;
}

void gpu_stop(struct sq_gpu *g)
{
    delete g->runtime;
    g->runtime = nullptr;
}

void gpu_info(struct sq_gpu *g, struct sq_gpu_info *out)
{
    *out = {};
    snprintf(out->name, sizeof out->name, "emulated sm_%d", g->capability);
    out->capability = g->capability;
    out->processors = 1;
    out->bytes = (int64_t)emulated_bytes();
    out->free_bytes = out->bytes - (out->bytes ? (int64_t)taken : 0);
}

/* ---- streams ---- */

static void push(struct gpu_runtime *r, int q, item what)
{
    r->queues[q].items.push_back(std::move(what));
    r->queues[q].added++;
}

void gpu_queue(struct sq_gpu *g, enum sq_queue q, std::function<void()> what)
{
    struct gpu_runtime *r = g->runtime;
    if (r->records && q == SQ_QUEUE_WORK)
        r->now.push_back({std::move(what), -1, 0});
    else
        push(r, q, {std::move(what), -1, 0});
}

/* Does the next of a stream, if there is one and what it waits for is done. */
static bool go_on(struct gpu_runtime *r, int q)
{
    queue *x = &r->queues[q];
    if (x->items.empty())
        return false;
    item *next = &x->items.front();
    if (next->queue >= 0 && r->queues[next->queue].done < next->many)
        return false;
    if (next->run)
        next->run();
    x->items.pop_front();
    x->done++;
    return true;
}

/* Goes on, here or there, until this stream has done so many. A turn may be long, and last over several calls: one stream
 * is far before the other then. */
static void run_until(struct gpu_runtime *r, int q, int64_t many)
{
    for (; r->queues[q].done < many; r->turns--) {
        if (r->turns <= 0) {
            r->random = r->random * 6364136223846793005ull + 1442695040888963407ull;
            r->first = (int)(r->random >> 40 & 1);
            r->turns = 1 << (r->random >> 41 & 15);
        }
        if (!go_on(r, r->first))
            go_on(r, 1 - r->first);
    }
}

/* On a device neither is possible while it records. */
static bool may_wait(struct sq_gpu *g)
{
    if (g->runtime && g->runtime->records)
        gpu_fail(g, SQ_E_DEVICE, "waiting while it records");
    return g->runtime && !g->runtime->records;
}

void gpu_wait(struct sq_gpu *g)
{
    for (int q = 0; q < 2 && may_wait(g); q++)
        run_until(g->runtime, q, g->runtime->queues[q].added);
}

void gpu_wait_mark(struct sq_gpu *g, int mark)
{
    if (may_wait(g))
        run_until(g->runtime, g->runtime->mark[mark].queue, g->runtime->mark[mark].many);
}

void gpu_move(struct sq_gpu *g, enum sq_queue q, void *to, const void *from, size_t bytes, const char *)
{
    gpu_queue(g, q, [=] { memmove(to, from, bytes); });
}

void gpu_fill(struct sq_gpu *g, enum sq_queue q, void *to, int byte, size_t bytes)
{
    gpu_queue(g, q, [=] { memset(to, byte, bytes); });
}

void gpu_mark(struct sq_gpu *g, int mark, enum sq_queue q)
{
    if (may_wait(g))
        g->runtime->mark[mark] = {q, g->runtime->queues[q].added};
}

void gpu_after(struct sq_gpu *g, enum sq_queue q, int mark)
{
    const place *m = &g->runtime->mark[mark];
    if (may_wait(g))
        push(g->runtime, q, {nullptr, m->queue, m->many});
}

/* ---- recordings ---- */

void gpu_record(struct sq_gpu *g)
{
    g->runtime->records = true;
    g->runtime->now.clear();
}

void gpu_recorded(struct sq_gpu *g, int recording)
{
    g->runtime->records = false;
    g->runtime->recording[recording] = std::move(g->runtime->now);
    g->runtime->now.clear();
}

bool gpu_replay(struct sq_gpu *g, int recording)
{
    for (const item &x : g->runtime->recording[recording])
        push(g->runtime, SQ_QUEUE_WORK, x);
    return !g->runtime->recording[recording].empty();
}

void gpu_forget(struct sq_gpu *g)
{
    for (auto &x : g->runtime->recording)
        x.clear();
}
