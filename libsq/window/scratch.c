#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sq/fault.h"

const char *scratch_dir(const char *dir)
{
    const char *tmp = getenv("TMPDIR");
    return dir ? dir : tmp && *tmp ? tmp : "/tmp";
}

int scratch_open(int *fd, const char *dir)
{
    char path[4096];
    dir = scratch_dir(dir);
    if (snprintf(path, sizeof path, "%s/sq-scratch-XXXXXX", dir) >= (int)sizeof path)
        return sq_fail(SQ_E_ARG, "the name of folder '%s' is too long", dir);
    *fd = sq_fault(SQ_FAULT_OPEN) ? -1 : mkostemp(path, O_CLOEXEC);
    if (*fd < 0)
        return sq_fail(SQ_E_IO, "cannot write in folder '%s': %s; name another one", dir, strerror(errno));
    if (unlink(path) < 0) {
        close(*fd);
        *fd = -1;
        return sq_fail(SQ_E_IO, "cannot remove '%s': %s", path, strerror(errno));
    }
    return 0;
}

/* Space is reserved at once: a disk that fills up later would kill the program at some store. */
int scratch_map(char **out, size_t bytes, const char *dir)
{
    const double megabytes = (double)bytes / 1e6;
    int fd = -1, rc;
    *out = NULL;
    SQ_TRY(scratch_open(&fd, dir));
    const int failed = sq_fault(SQ_FAULT_WRITE) ? errno : posix_fallocate(fd, 0, (off_t)bytes);
    if (failed)
        SQ_TRY(sq_fail(SQ_E_IO, "no %.1f MB in folder '%s': %s", megabytes, dir, strerror(failed)));
    void *p = sq_fault(SQ_FAULT_OPEN) ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        SQ_TRY(sq_fail(SQ_E_IO, "cannot map a file of %.1f MB in '%s': %s", megabytes, dir, strerror(errno)));
    *out = p;
out:
    if (fd >= 0)
        close(fd);
    return rc;
}

void scratch_unmap(char *x, size_t bytes)
{
    if (x)
        munmap(x, bytes);
}
