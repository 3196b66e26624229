/* The emulator behind simt.h: fibers that switch only at barriers and warp operations. */
#include "simt.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <mutex>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define SIMT_TSAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define SIMT_ASAN 1
#endif
#ifdef __SANITIZE_THREAD__
#define SIMT_TSAN 1
#endif

#ifdef SIMT_ASAN
#include <sanitizer/common_interface_defs.h>
enum { STACK = 256 * 1024 };
#else
enum { STACK = 64 * 1024 };
#endif
#ifdef SIMT_TSAN
#include <sanitizer/tsan_interface.h>
/* the emulator's own state is no business of TSan: it stands for hardware */
#define HIDDEN     __attribute__((no_sanitize("thread")))
#define RELEASE(x) __tsan_release(x)
#define ACQUIRE(x) __tsan_acquire(x)
#else
#define HIDDEN
#define RELEASE(x) ((void)0)
#define ACQUIRE(x) ((void)0)
#endif

extern "C" {
extern char __start_simt_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_simt_shared[] __attribute__((weak, visibility("hidden")));
}

/* ---- contexts: the callee-saved registers, or ucontext where there is no assembler for them ---- */

#if defined(__x86_64__) && !defined(SIMT_UCONTEXT)
extern "C" void simt_switch(void **from, void *to) __attribute__((visibility("hidden")));
asm(R"(
.text
.hidden simt_switch
.globl simt_switch
.type simt_switch,@function
simt_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp,(%rdi)
    movq %rsi,%rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
.size simt_switch,.-simt_switch
)");

struct context {
    void *sp;
};

HIDDEN static void context_new(context *c, char *stack, void (*entry)())
{
    void **sp = reinterpret_cast<void **>(stack + STACK);
    *--sp = nullptr;
    *--sp = reinterpret_cast<void *>(entry);
    for (int k = 0; k < 6; k++)
        *--sp = nullptr;
    c->sp = sp;
}

HIDDEN static void context_switch(context *from, context *to)
{
    simt_switch(&from->sp, to->sp);
}
#else
#include <ucontext.h>

struct context {
    ucontext_t u;
};

HIDDEN static void context_new(context *c, char *stack, void (*entry)())
{
    getcontext(&c->u);
    c->u.uc_stack.ss_sp = stack;
    c->u.uc_stack.ss_size = STACK;
    c->u.uc_link = nullptr;
    makecontext(&c->u, entry, 0);
}

HIDDEN static void context_switch(context *from, context *to)
{
    swapcontext(&from->u, &to->u);
}
#endif

namespace simt
{

enum state { RUNS, AT_BARRIER, IN_WARP, LEFT };
enum { MOST = 1024, LANES = 32, MOST_SHARED = 99 * 1024 };

struct thread {
    context c;
    char *stack;
    uint3 index;
    int linear, barriers; /* passed */
    enum state state;
    where at;
    enum op op;
    uint32_t mask;
    int arg, width;
    unsigned char value[16], result[16];
    serve_fn *serve; /* of TOGETHER */
    void *mine;
    void *fake, *fiber; /* of ASan, of TSan */
};

struct block {
    uint3 index;
    dim3 size, grid;
    int n;
    void (*body)(void *);
    void *closure;
    char *dynamic;
    size_t bytes;
};

static thread threads[MOST];
static thread *current;
static block now;
static context outside;
unsigned secret;
#ifdef SIMT_ASAN
static const void *outside_stack;
static size_t outside_size;
static void *outside_fake;
#endif
#ifdef SIMT_TSAN
static void *outside_fiber;
/* What happens before what. Barriers take turns: who runs on to the next one must not seem to have been there before
 * those that still come from this one. */
static char order_start, order_end, order_barrier[2], order_warp[MOST / LANES];
#endif

/* Copies that the sanitizers do not see. */
HIDDEN static void copy(void *to, const void *from, size_t n)
{
    volatile unsigned char *a = static_cast<volatile unsigned char *>(to);
    const volatile unsigned char *b = static_cast<const volatile unsigned char *>(from);
    while (n--)
        *a++ = *b++;
}

HIDDEN static bool same(where a, where b)
{
    return a.line == b.line && a.file == b.file;
}

[[noreturn]] HIDDEN void die(const char *what)
{
    static const char *const names[] = {"runs", "waits at __syncthreads", "waits in a warp operation", "has left"};
    fprintf(stderr, "simt: %s in block (%u, %u, %u)\n", what, now.index.x, now.index.y, now.index.z);
    for (int i = 0, first = 0; i < now.n; i++) {
        const thread *t = &threads[i], *next = &threads[i + 1];
        if (i + 1 < now.n && t->state == next->state && t->at.line == next->at.line && t->mask == next->mask)
            continue;
        fprintf(stderr, "simt:   threads %d to %d: %s, %s:%d, mask %08x\n", first, i, names[t->state],
                t->at.file ? t->at.file : "start", t->at.line, t->mask);
        first = i + 1;
    }
    abort();
}

HIDDEN static void to_outside()
{
    thread *t = current;
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(t->state == LEFT ? nullptr : &t->fake, outside_stack, outside_size);
#endif
#ifdef SIMT_TSAN
    __tsan_switch_to_fiber(outside_fiber, __tsan_switch_to_fiber_no_sync);
#endif
    context_switch(&t->c, &outside);
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(t->fake, &outside_stack, &outside_size);
#endif
}

HIDDEN static void entry()
{
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &outside_stack, &outside_size);
#endif
    ACQUIRE(&order_start);
    now.body(now.closure);
    RELEASE(&order_end);
    current->state = LEFT;
    to_outside();
    abort();
}

HIDDEN static void resume(thread *t)
{
    current = t;
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(&outside_fake, t->stack, STACK);
#endif
#ifdef SIMT_TSAN
    __tsan_switch_to_fiber(t->fiber, __tsan_switch_to_fiber_no_sync);
#endif
    context_switch(&outside, &t->c);
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(outside_fake, nullptr, nullptr);
#endif
    current = nullptr;
}

HIDDEN __attribute__((noinline)) uint3 thread_index()
{
    return current->index;
}

HIDDEN __attribute__((noinline)) uint3 block_index()
{
    return now.index;
}

HIDDEN __attribute__((noinline)) dim3 block_size()
{
    return now.size;
}

HIDDEN __attribute__((noinline)) dim3 grid_size()
{
    return now.grid;
}

HIDDEN __attribute__((noinline)) void *dynamic()
{
    return now.dynamic;
}

HIDDEN bool is_shared(const void *p, size_t bytes)
{
    const char *at = static_cast<const char *>(p), *first = __start_simt_shared, *end = __stop_simt_shared;
#ifdef SIMT_PLAIN_SHARED
    return true; /* lies anywhere */
#endif
    return (at >= now.dynamic && at + bytes <= now.dynamic + now.bytes) || (at >= first && at + bytes <= end);
}

HIDDEN void barrier(where at)
{
    current->at = at;
    current->mask = 0;
    current->state = AT_BARRIER;
    const int turn = current->barriers++ % 2;
    RELEASE(&order_barrier[turn]);
    to_outside();
    ACQUIRE(&order_barrier[turn]);
    (void)turn;
}

/* ---- warp operations: the last lane to come serves all ---- */

HIDDEN static uint32_t ballot_of(const thread *w, int lanes, uint32_t mask)
{
    uint32_t bits = 0;
    for (int l = 0; l < lanes; l++)
        if (mask >> l & 1 && w[l].state == IN_WARP && w[l].value[0])
            bits |= 1u << l;
    return bits;
}

/* the lane that lane l reads; its own where a shuffle leads out of the segment */
HIDDEN static int source(const thread *t, int l)
{
    const int first = l / t->width * t->width, end = first + t->width;
    switch (t->op) {
    case SHFL: return first + (t->arg & (t->width - 1));
    case UP: return l - t->arg < first ? l : l - t->arg;
    case DOWN: return l + t->arg >= end ? l : l + t->arg;
    case XOR: return (l ^ t->arg) >= end ? l : l ^ t->arg;
    default: return l;
    }
}

HIDDEN static void serve_together(thread *w)
{
    void *mine[LANES];
    for (int l = 0; l < LANES; l++)
        mine[l] = w[l].mine;
    current->serve(mine);
    for (int l = 0; l < LANES; l++)
        w[l].state = RUNS;
}

HIDDEN static void serve(thread *w, int lanes, uint32_t mask)
{
    const uint32_t bits = ballot_of(w, lanes, mask);
    for (int l = 0; l < lanes; l++) {
        if (!(mask >> l & 1) || w[l].state != IN_WARP)
            continue;
        const int from = source(&w[l], l);
        const bool there = from < lanes && mask >> from & 1 && w[from].state == IN_WARP;
        static const uint64_t undefined[2] = {~0ull, ~0ull};
        if (w[l].op == BALLOT)
            copy(w[l].result, &bits, sizeof bits);
        else
            copy(w[l].result, there ? static_cast<const void *>(w[from].value) : undefined, 16);
    }
    for (int l = 0; l < lanes; l++)
        if (mask >> l & 1 && w[l].state == IN_WARP)
            w[l].state = RUNS;
}

/* Are all lanes of the mask here, but those that left? For TOGETHER all must be, at one place. The last lanes come last
 * mostly, so they are looked at first. */
HIDDEN static bool complete(const thread *w, int lanes, uint32_t mask, enum op op)
{
    for (int l = lanes - 1; l >= 0; l--) {
        if (!(mask >> l & 1) || (w[l].state == LEFT && op != TOGETHER))
            continue;
        if (w[l].state != IN_WARP)
            return false;
        if (w[l].mask != mask || w[l].op != op || (op == TOGETHER && !same(w[l].at, current->at)))
            die("lanes of one mask are in different warp operations");
    }
    return true;
}

HIDDEN void warp(enum op op, uint32_t mask, const void *v, size_t n, void *out, int arg, int width, where at)
{
    thread *t = current, *w = &threads[t->linear / LANES * LANES];
    const int lanes = now.n - (int)(w - threads) < LANES ? now.n - (int)(w - threads) : LANES;
    t->at = at;
    t->mask = mask;
    t->op = op;
    t->arg = arg;
    t->width = width;
    if (!(mask >> t->linear % LANES & 1))
        die("a lane is missing from its own mask");
    copy(t->value, v, n);
    t->state = IN_WARP;
    if (op == SYNC)
        RELEASE(&order_warp[t->linear / LANES]);
    if (!complete(w, lanes, mask, op))
        to_outside();
    else if (op == TOGETHER)
        serve_together(w);
    else
        serve(w, lanes, mask);
    if (op == SYNC)
        ACQUIRE(&order_warp[t->linear / LANES]);
    copy(out, t->result, n);
}

HIDDEN void together(serve_fn *serve, void *mine, where at)
{
    if (now.n % LANES != 0)
        die("a warp of fewer than 32 lanes does what all do together");
    current->serve = serve;
    current->mine = mine;
    warp(TOGETHER, ~0u, nullptr, 0, nullptr, 0, LANES, at);
}

HIDDEN int lane()
{
    return current->linear % LANES;
}

/* ---- blocks ---- */

static uint64_t seed()
{
    const char *s = getenv("SQ_EMU_SEED");
    return s ? strtoull(s, nullptr, 10) : 0;
}

HIDDEN static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

HIDDEN static void thread_new(thread *t, int i)
{
    if (!t->stack) {
        const size_t page = (size_t)sysconf(_SC_PAGESIZE);
        void *p =
            mmap(nullptr, STACK + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED || mprotect(p, page, PROT_NONE) != 0) {
            fprintf(stderr, "simt: no memory for the stacks of %d threads\n", now.n);
            abort();
        }
        t->stack = static_cast<char *>(p) + page;
#ifdef SIMT_TSAN
        t->fiber = __tsan_create_fiber(0);
#endif
    }
    const unsigned n = (unsigned)i;
    context_new(&t->c, t->stack, entry);
    t->linear = i;
    t->barriers = 0;
    t->index = {n % now.size.x, n / now.size.x % now.size.y, n / (now.size.x * now.size.y)};
    t->state = RUNS;
    t->at = {nullptr, 0};
    t->mask = 0;
}

/* All wait or have left: are they at one barrier? False when all have left. */
HIDDEN static bool pass_barrier()
{
    int left = 0, waiting = 0;
    const thread *one = nullptr;
    for (int i = 0; i < now.n; i++) {
        const thread *t = &threads[i];
        left += t->state == LEFT;
        if (t->state != AT_BARRIER)
            continue;
        if (one && !same(one->at, t->at))
            die("threads wait at different barriers");
        one = t;
        waiting++;
    }
    if (left == now.n)
        return false;
    if (waiting + left < now.n)
        die("lanes that a mask names never come");
    if (left)
        die("threads have left before a barrier");
    for (int i = 0; i < now.n; i++)
        threads[i].state = RUNS;
    return true;
}

HIDDEN static void run_block(uint64_t *random)
{
    int order[MOST];
    if (__start_simt_shared)
        memset(__start_simt_shared, 0xff, (size_t)(__stop_simt_shared - __start_simt_shared));
    if (now.bytes)
        memset(now.dynamic, 0xff, now.bytes);
    for (int i = 0; i < now.n; i++) {
        thread_new(&threads[i], i);
        order[i] = i;
    }
    for (int i = now.n - 1; *random && i > 0; i--) {
        const int j = (int)(next(random) % (uint64_t)(i + 1)), keep = order[i];
        order[i] = order[j];
        order[j] = keep;
    }
#ifdef SIMT_TSAN
    outside_fiber = __tsan_get_current_fiber();
#endif
    RELEASE(&order_start);
    do {
        for (bool ran = true; ran;) {
            ran = false;
            for (int i = 0; i < now.n; i++)
                if (threads[order[i]].state == RUNS) {
                    resume(&threads[order[i]]);
                    ran = true;
                }
        }
    } while (pass_barrier());
    ACQUIRE(&order_end);
}

HIDDEN void run(dim3 grid, dim3 size, size_t bytes, void (*body)(void *), void *closure)
{
    static std::mutex one;
    const std::lock_guard<std::mutex> guard(one);
    const uint64_t n = (uint64_t)grid.x * grid.y * grid.z, first = seed();
    uint64_t random = first;
    secret = (unsigned)first * 77;
    now = {{0, 0, 0}, size, grid, (int)(size.x * size.y * size.z), body, closure, nullptr, bytes};
    if (now.n < 1 || now.n > MOST || n == 0 || bytes > MOST_SHARED)
        die("a launch that no GPU takes");
    now.dynamic = static_cast<char *>(aligned_alloc(16, (bytes ? bytes + 15 : 16) / 16 * 16)); /* as on a GPU, and ASan sees its end */
    for (uint64_t i = 0; i < n; i++) {
        const uint64_t k = first ? n - 1 - i : i; /* blocks owe each other nothing: any order */
        now.index = {(unsigned)(k % grid.x), (unsigned)(k / grid.x % grid.y), (unsigned)(k / grid.x / grid.y)};
        run_block(&random);
    }
    free(now.dynamic);
}

} // namespace simt
