/* STYLE.md 2.6: libsq allocates nothing inside operations. Address space is reserved when the backend is chosen, where a
 * failure can be reported; the system supplies pages as they are touched and they are used again by the next call. */
#include "cpu.h"

#include <errno.h>
#include <omp.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "sq/fault.h"

int64_t sq_private = SQ_PRIVATE, sq_partials = SQ_PANELS;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static float *space;
static int slots;

int sq_space_open(void)
{
    if (space)
        return 0;
    /* Twice the processors: enough for anybody who measures oversubscription, and address space is limited by some. */
    const int want = SQ_MIN(SQ_MAX(SQ_MAX(omp_get_max_threads(), 2 * omp_get_num_procs()), 8), 512);
    const size_t bytes = (size_t)(2 * SQ_PANELS + want * SQ_PRIVATE) * sizeof *space;
    void *p = sq_fault(SQ_FAULT_ALLOC) ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return sq_fail(SQ_E_NOMEM, "no address space for %zu bytes of workspace: %s", bytes, strerror(errno));
    space = p;
    slots = want;
    return 0;
}

void sq_space_lock(void)
{
    SQ_ASSERT(pthread_mutex_lock(&lock) == 0);
}

void sq_space_unlock(void)
{
    SQ_ASSERT(pthread_mutex_unlock(&lock) == 0);
}

float *sq_space_panels(int which)
{
    return space + which * SQ_PANELS;
}

float *sq_space_private(int thread)
{
    SQ_ASSERT(thread < slots);
    return space + 2 * SQ_PANELS + thread * SQ_PRIVATE;
}

int sq_cpu_threads(void)
{
    return SQ_MIN(omp_get_max_threads(), slots);
}
