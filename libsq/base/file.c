#include "sq/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sq/fault.h"

int sq_file_open(int *fd, int64_t *size, const char *path)
{
    struct stat st;
    int rc = 0;
    *fd = sq_fault(SQ_FAULT_OPEN) ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO would wait for its writer */
    if (*fd < 0 || fstat(*fd, &st) < 0)
        rc = sq_fail(SQ_E_IO, "cannot read '%s': %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = sq_fail(SQ_E_IO, "cannot read '%s': not a regular file", path);
    else
        *size = (int64_t)st.st_size;
    if (rc < 0 && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return rc;
}
