/* Streams over file descriptors: files, pipes, FIFOs, devices. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "sq/fault.h"
#include "sq/stop.h"
#include "wire.h"

/* A pipe holds 64 KiB unless asked; with a slice in flight both sides work at the same time. */
static void widen_pipe(int fd, const struct stat *st)
{
    if (S_ISFIFO(st->st_mode))
        (void)fcntl(fd, F_SETPIPE_SZ, (int)WIRE_SLICE); /* refused beyond a user's quota: only slower */
}

static int parse_fd(const char *spec, int *fd)
{
    char *end;
    errno = 0;
    const long n = strtol(spec + 3, &end, 10);
    if (spec[3] < '0' || spec[3] > '9' || *end || errno || n > INT_MAX || fcntl((int)n, F_GETFD) < 0)
        return sq_fail(SQ_E_ARG, "'%s' is not an open file descriptor", spec);
    *fd = (int)n;
    return 0;
}

/* A plain file appears under its name when it is complete; what is no plain file (a FIFO, /dev/null) is written as it is. */
static int open_for_write(struct sq_stream *s)
{
    struct stat st;
    if (stat(s->path, &st) == 0 && !S_ISREG(st.st_mode)) {
        s->fd = sq_fault(SQ_FAULT_OPEN) ? -1 : open(s->path, O_WRONLY | O_CLOEXEC);
    } else {
        const int rc = sq_temp_file(&s->temp, s->path);
        if (rc < 0)
            return rc;
        s->fd = fcntl(s->temp.fd, F_DUPFD_CLOEXEC, 0);
    }
    if (s->fd < 0)
        return sq_fail(SQ_E_IO, "cannot write '%s': %s", s->path, strerror(errno));
    return 0;
}

static int open_path(struct sq_stream *s, const char *spec)
{
    int rc = sq_strdup(&s->path, spec);
    if (rc < 0)
        return rc;
    if (s->dir == SQ_WRITE)
        return open_for_write(s);
    s->fd = sq_fault(SQ_FAULT_OPEN) ? -1 : open(s->path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0)
        return sq_fail(SQ_E_IO, "cannot read '%s': %s", spec, strerror(errno));
    return 0;
}

static bool takes_fd(const char *spec)
{
    (void)spec;
    return true; /* any other text is a path */
}

static int open_fd(struct sq_stream *s, const char *spec)
{
    struct stat st;
    int rc = 0;

    if (strcmp(spec, "-") == 0)
        s->fd = s->dir == SQ_READ ? 0 : 1;
    else if (strncmp(spec, "fd:", 3) == 0)
        rc = parse_fd(spec, &s->fd);
    else
        rc = open_path(s, spec);
    if (rc < 0)
        return rc;
    if (isatty(s->fd))
        return sq_fail(SQ_E_ARG, s->dir == SQ_READ
                                     ? "no stream is read from a terminal: use -i FILE or a pipe"
                                     : "no stream is written to a terminal: use -o FILE or a pipe");
    if (fstat(s->fd, &st) < 0)
        return sq_fail(SQ_E_IO, "cannot use '%s': %s", spec, strerror(errno));
    s->size = S_ISREG(st.st_mode) ? (int64_t)st.st_size : -1;
    widen_pipe(s->fd, &st);
    return 0;
}

/* 0 to 2 stay occupied, so that no later open() becomes somebody's stdout */
static int close_fd(int fd)
{
    if (fd < 0)
        return 0;
    const int rc = close(fd), e = errno;
    if (fd <= 2 && open("/dev/null", fd ? O_WRONLY : O_RDONLY) > 2)
        return rc; /* somebody else took the number: leave it */
    errno = e;
    return rc;
}

static int finish_file(struct sq_stream *s)
{
    if (sq_fault(SQ_FAULT_SYNC) || fsync(s->fd) < 0)
        return sq_fail(SQ_E_IO, "cannot write '%s': %s", s->path, strerror(errno));
    const int rc = close(s->fd);
    s->fd = -1;
    return rc < 0 ? sq_fail(SQ_E_IO, "cannot write '%s': %s", s->path, strerror(errno)) : sq_temp_finish(&s->temp);
}

static int shut_fd(struct sq_stream *s, bool ok)
{
    int rc = 0;

    if (s->temp.path[0] && ok)
        rc = finish_file(s);
    sq_temp_remove(&s->temp);
    if (s->fd >= 0 && close_fd(s->fd) < 0 && ok && s->dir == SQ_WRITE)
        rc = sq_fail(SQ_E_IO, "cannot write the output: %s", strerror(errno));
    s->fd = -1;
    return rc;
}

/* A descriptor that another process made non-blocking: wait instead of spinning. A program that catches SIGTERM must
 * not sleep on in a pipe: then the call fails. */
static bool again(int fd, short what)
{
    if (errno == EINTR)
        return sq_stopped() == 0;
    if (errno != EAGAIN && errno != EWOULDBLOCK)
        return false;
    struct pollfd p = {.fd = fd, .events = what};
    return poll(&p, 1, -1) >= 0 || (errno == EINTR && sq_stopped() == 0);
}

static int64_t read_fd(struct sq_stream *s, void *dst, size_t n)
{
    ssize_t got;
    do
        got = sq_fault(SQ_FAULT_READ) ? -1 : read(s->fd, dst, n);
    while (got < 0 && again(s->fd, POLLIN));
    if (got < 0 && errno == EINTR && sq_stop_check() < 0)
        return SQ_E_IO;
    if (got < 0)
        return sq_fail(SQ_E_IO, "cannot read %s%s%s: %s", s->path ? "'" : "", s->path ? s->path : "the input",
                       s->path ? "'" : "", strerror(errno));
    return got;
}

static int write_fd(struct sq_stream *s, const void *a, size_t na, const void *b, size_t nb)
{
    struct iovec v[2] = {{.iov_base = (void *)(uintptr_t)a, .iov_len = na},
                         {.iov_base = (void *)(uintptr_t)b, .iov_len = nb}};
    int i = na ? 0 : 1;

    while (i < 2 && v[i].iov_len) {
        const ssize_t n = sq_fault(SQ_FAULT_WRITE) ? -1 : writev(s->fd, v + i, 2 - i);
        if (n < 0 && again(s->fd, POLLOUT))
            continue;
        if (n < 0 && errno == EINTR && sq_stop_check() < 0)
            return SQ_E_IO;
        if (n < 0)
            return sq_fail(errno == EPIPE ? SQ_E_PEER : SQ_E_IO, "cannot write %s%s%s: %s", s->path ? "'" : "",
                           s->path ? s->path : "the output", s->path ? "'" : "", strerror(errno));
        for (size_t done = (size_t)n; i < 2;) {
            const size_t k = SQ_MIN(done, v[i].iov_len);
            v[i].iov_base = (char *)v[i].iov_base + k;
            v[i].iov_len -= k;
            done -= k;
            if (v[i].iov_len)
                break;
            i++;
        }
    }
    return 0;
}

static int end_fd(struct sq_stream *s)
{
    struct pollfd p = {.fd = s->fd, .events = POLLIN};
    uint8_t byte;

    if (s->size < 0 && poll(&p, 1, 0) <= 0)
        return 0; /* nobody has sent more so far */
    const int64_t n = read_fd(s, &byte, 1);
    return n > 0 ? wire_bytes_follow() : (int)n;
}

const struct wire_transport wire_fd = {takes_fd, open_fd, read_fd, write_fd, end_fd, shut_fd};
