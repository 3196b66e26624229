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

int pack_temp(struct packer *p)
{
    char out[PACK_PATH];
    size_t n = strlen(p->o->out);

    while (n > 1 && p->o->out[n - 1] == '/')
        n--;
    if (n == 0 || n + 32 > sizeof out)
        return sq_fail(SQ_E_ARG, "output name '%.64s' is %s", p->o->out, n ? "too long" : "empty");
    memcpy(out, p->o->out, n);
    out[n] = '\0';
    snprintf(p->temp, sizeof p->temp, "%.4000s.tmp-%ld", out, (long)getpid());
    return 0;
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
    if (!directory && stat(out, &st) == 0 && S_ISDIR(st.st_mode))
        return sq_fail(SQ_E_ARG, "'%s' is a directory", out);
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
    char path[PACK_PATH + 256];
    snprintf(path, sizeof path, "%s/%s", p->temp, name);
    const int fd = sq_fault(SQ_FAULT_OPEN) ? -1 : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return sq_fail(SQ_E_IO, "cannot write '%s': %s", path, strerror(errno));
    p->rep->file_bytes += (int64_t)n;
    return close_fd(p, fd, pack_write(p, fd, data, n, 0));
}

/* The directory entry should be on disk as well, or a crash loses the name; not every file system can. */
static void sync_parent(const struct packer *p)
{
    char path[PACK_PATH];
    snprintf(path, sizeof path, "%s", p->temp);
    const int fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

int pack_rename(struct packer *p)
{
    char out[PACK_PATH];
    snprintf(out, sizeof out, "%.*s", (int)(strrchr(p->temp, '.') - p->temp), p->temp);
    if (sq_fault(SQ_FAULT_RENAME) || rename(p->temp, out) < 0)
        return sq_fail(SQ_E_IO, "cannot rename to '%s': %s", out, strerror(errno));
    p->temp[0] = '\0';
    snprintf(p->temp, sizeof p->temp, "%s", out);
    sync_parent(p);
    p->temp[0] = '\0';
    return 0;
}

/* Our own directory holds plain files only. */
static void remove_dir(const char *dir)
{
    DIR *d = opendir(dir);
    char path[PACK_PATH + 256];
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%.255s", dir, e->d_name);
        if (e->d_name[0] != '.')
            unlink(path);
    }
    if (d)
        closedir(d);
    rmdir(dir);
}

void pack_remove(struct packer *p)
{
    struct stat st;
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
    if (p->temp[0] && lstat(p->temp, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            remove_dir(p->temp);
        else
            unlink(p->temp);
    }
    p->temp[0] = '\0';
}
