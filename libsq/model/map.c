#include "map.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sq/fault.h"
#include "sq/file.h"

int sq_map_open(struct sq_map *m, const char *path)
{
    int64_t size;
    int fd, rc;

    *m = (struct sq_map){.data = NULL, .size = 0, .mapped = false};
    SQ_TRY(sq_file_open(&fd, &size, path));
    if (size <= 0)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "'%s' is empty", path));
    void *p = sq_fault(SQ_FAULT_OPEN) ? MAP_FAILED : mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        SQ_TRY(sq_fail(SQ_E_IO, "cannot map '%s': %s", path, strerror(errno)));
    *m = (struct sq_map){.data = p, .size = (size_t)size, .mapped = true};
out:
    if (fd >= 0)
        close(fd);
    return rc;
}

void sq_map_close(struct sq_map *m)
{
    if (m->mapped)
        munmap((void *)(uintptr_t)m->data, m->size);
    *m = (struct sq_map){.data = NULL, .size = 0, .mapped = false};
}

/* The kernel maps up to 16 pages around one that is touched, also such that were dropped before: without
 * the margin every border between two tensors would stay resident, and the sum would grow with the
 * model. */
void sq_map_drop(const struct sq_map *m, const void *data, size_t n)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), margin = 16 * page;
    const uintptr_t first = (uintptr_t)m->data, last = first + m->size, at = (uintptr_t)data;
    if (!m->mapped || !n)
        return;
    const uintptr_t begin = at - first > margin ? (at - margin) / page * page : first;
    const uintptr_t end = last - (at + n) > margin ? at + n + margin : last;
    madvise((void *)begin, end - begin, MADV_DONTNEED);
}
