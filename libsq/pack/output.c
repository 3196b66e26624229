/* Files of the packer: written under a temporary name beside the final one, renamed when they are proven. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "packer.h"
#include "sq/fault.h"

/* The output's path without slashes at its end. */
static int make(struct packer *p, int (*temp)(struct sq_temp *, const char *))
{
    char out[PACK_PATH];
    size_t n = strlen(p->o->out);
    while (n > 1 && p->o->out[n - 1] == '/')
        n--;
    if (n >= sizeof out)
        return sq_fail(SQ_E_ARG, "output name '%.64s' is too long", p->o->out);
    memcpy(out, p->o->out, n);
    out[n] = '\0';
    return temp(&p->temp, out);
}

int pack_make_file(struct packer *p)
{
    const int rc = make(p, sq_temp_file);
    if (rc < 0)
        return rc;
    p->fd = fcntl(p->temp.fd, F_DUPFD_CLOEXEC, 0);
    return p->fd < 0 ? sq_fail(SQ_E_IO, "cannot write '%s': %s", p->o->out, strerror(errno)) : 0;
}

int pack_make_directory(struct packer *p)
{
    const int rc = sq_pack_room(p->o->out, true, 0);
    return rc < 0 ? rc : make(p, sq_temp_folder);
}

/* An existing directory is not ours to change; an empty one is replaced. */
static int check_directory(const char *out)
{
    struct stat st;
    int entries = 0;
    DIR *d = opendir(out);
    for (struct dirent *e; d && (e = readdir(d));)
        entries += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    if (d)
        closedir(d);
    return entries || (!d && lstat(out, &st) == 0)
               ? sq_fail(SQ_E_ARG, "'%s' exists and is not an empty directory", out)
               : 0;
}

int sq_pack_room(const char *out, bool directory, int64_t bytes)
{
    char path[PACK_PATH];
    struct statvfs fs;
    struct stat st;
    const int rc = directory ? check_directory(out) : 0;
    if (rc < 0)
        return rc;
    if (!directory && stat(out, &st) == 0 && !S_ISREG(st.st_mode))
        return sq_fail(SQ_E_ARG, "'%s' is %s", out, S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
    snprintf(path, sizeof path, "%.4000s", out);
    const char *folder = dirname(path);
    if (access(folder, W_OK | X_OK) < 0 || statvfs(folder, &fs) < 0)
        return sq_fail(SQ_E_IO, "cannot write in folder '%s': %s", folder, strerror(errno));
    const double spare = (double)fs.f_bavail * (double)fs.f_frsize;
    return (double)bytes <= spare ? 0
                                  : sq_fail(SQ_E_IO, "'%s' will have %.1f MB, its folder has %.1f MB free", out,
                                            (double)bytes / 1e6, spare / 1e6);
}

int pack_write(struct packer *p, int fd, const void *data, size_t n, int64_t offset)
{
    const uint8_t *at = data;
    while (n > 0) {
        const ssize_t got = sq_fault(SQ_FAULT_WRITE) ? -1 : pwrite(fd, at, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return sq_fail(SQ_E_IO, "cannot write '%s': %s", p->o->out, got < 0 ? strerror(errno) : "nothing written");
        at += got;
        n -= (size_t)got;
        offset += got;
    }
    return 0;
}

static int close_fd(struct packer *p, int fd, int rc)
{
    if (rc == 0 && (sq_fault(SQ_FAULT_SYNC) || fsync(fd) < 0) && errno != EINVAL && errno != EROFS)
        rc = sq_fail(SQ_E_IO, "cannot write '%s': %s", p->o->out, strerror(errno));
    if (close(fd) < 0 && rc == 0)
        rc = sq_fail(SQ_E_IO, "cannot write '%s': %s", p->o->out, strerror(errno));
    return rc;
}

int pack_close(struct packer *p)
{
    const int fd = p->fd;
    p->fd = -1;
    return fd >= 0 ? close_fd(p, fd, 0) : 0;
}

int pack_write_file(struct packer *p, const char *name, const void *data, size_t n)
{
    char path[SQ_TEMP_PATH + 256];
    snprintf(path, sizeof path, "%s/%s", p->temp.path, name);
    const int fd = sq_fault(SQ_FAULT_OPEN) ? -1 : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return sq_fail(SQ_E_IO, "cannot write '%s': %s", path, strerror(errno));
    p->rep->file_bytes += (int64_t)n;
    return close_fd(p, fd, pack_write(p, fd, data, n, 0));
}

void pack_remove(struct packer *p)
{
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
    sq_temp_remove(&p->temp);
}
