#include "map.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sq/fault.h"

int sq_map_open(struct sq_map *m, const char *path)
{
    struct stat st;
    int rc = 0;

    *m = (struct sq_map){.data = NULL, .size = 0, .mapped = false};
    /* opening a FIFO would wait for its writer: look first */
    if (stat(path, &st) < 0)
        return sq_fail(SQ_E_IO, "cannot read '%s': %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return sq_fail(SQ_E_IO, "cannot read '%s': not a regular file", path);
    const int fd = sq_fault(SQ_FAULT_OPEN) ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        rc = sq_fail(SQ_E_IO, "cannot read '%s': %s", path, strerror(errno));
        goto out;
    }
    if (st.st_size <= 0) {
        rc = sq_fail(SQ_E_FORMAT, "'%s' is empty", path);
        goto out;
    }
    void *p = sq_fault(SQ_FAULT_OPEN) ? MAP_FAILED : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        rc = sq_fail(SQ_E_IO, "cannot map '%s': %s", path, strerror(errno));
        goto out;
    }
    *m = (struct sq_map){.data = p, .size = (size_t)st.st_size, .mapped = true};
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
