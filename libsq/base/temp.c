#include "sq/temp.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sq/fault.h"

static const char mark[] = ".sq-tmp-";

/* The folder that path is in, and in *name what follows it. */
static void folder_of(char folder[SQ_TEMP_TARGET], const char **name, const char *path)
{
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    snprintf(folder, SQ_TEMP_TARGET, "%.*s", slash ? (int)SQ_MAX(slash - path, 1) : 1, slash ? path : ".");
}

static void discard(const char *path)
{
    char file[SQ_TEMP_PATH + 256];
    DIR *d = unlink(path) < 0 && errno == EISDIR ? opendir(path) : NULL;
    if (!d)
        return;
    for (const struct dirent *e; (e = readdir(d));) {
        snprintf(file, sizeof file, "%s/%.255s", path, e->d_name);
        if (e->d_name[0] != '.')
            unlink(file);
    }
    closedir(d);
    rmdir(path);
}

static void discard_unlocked(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC); /* over NFS only what can be written can be locked */
    if (fd < 0 && errno == EISDIR)
        fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return;
    if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && flock(fd, LOCK_EX | LOCK_NB) == 0)
        discard(path);
    close(fd);
}

/* What programs that were killed have left beside target. */
static void sweep(const char *target)
{
    char folder[SQ_TEMP_TARGET], path[SQ_TEMP_PATH + 256];
    const char *name;
    folder_of(folder, &name, target);
    const size_t n = strlen(name), digits = n + strlen(mark);
    DIR *d = opendir(folder);
    for (const struct dirent *e; d && (e = readdir(d));) {
        if (strncmp(e->d_name, name, n) != 0 || strncmp(e->d_name + n, mark, strlen(mark)) != 0 ||
            !e->d_name[digits] || e->d_name[digits + strspn(e->d_name + digits, "0123456789")])
            continue;
        snprintf(path, sizeof path, "%s/%.255s", folder, e->d_name);
        discard_unlocked(path);
    }
    if (d)
        closedir(d);
}

static int make(const char *path, bool folder)
{
    if (sq_fault(SQ_FAULT_OPEN))
        return -1;
    if (!folder)
        return open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    const int fd = mkdir(path, 0777) < 0 ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), e = errno;
    if (fd < 0 && e != EEXIST)
        rmdir(path);
    errno = e;
    return fd;
}

/* Whether it is still there once it is locked: another program may have swept it before. */
static bool keep(int fd, const char *path)
{
    struct stat mine, there;
    while (flock(fd, LOCK_EX) < 0 && errno == EINTR)
        ;
    return fstat(fd, &mine) < 0 || (stat(path, &there) == 0 && mine.st_ino == there.st_ino);
}

/* The name that a link leads to: what lies there is replaced, not the link. Nothing but its like may lie there. */
static int name_target(struct sq_temp *t, const char *target, bool folder)
{
    char real[PATH_MAX];
    struct stat st, link;
    t->path[0] = 0;
    if (!target[0] || strlen(target) >= sizeof t->target)
        return sq_fail(SQ_E_ARG, "output name '%.64s' is %s", target, target[0] ? "too long" : "empty");
    const bool exists = stat(target, &st) == 0;
    if (exists && !(folder ? S_ISDIR(st.st_mode) : S_ISREG(st.st_mode)))
        return sq_fail(SQ_E_ARG, "'%s' is %s", target,
                       folder ? "not a directory" : S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
    const bool linked = exists && lstat(target, &link) == 0 && S_ISLNK(link.st_mode) && realpath(target, real);
    snprintf(t->target, sizeof t->target, "%s", linked ? real : target);
    return 0;
}

static int open_temp(struct sq_temp *t, const char *name, bool folder)
{
    char path[SQ_TEMP_PATH];
    const char *target = t->target;
    const int rc = name_target(t, name, folder);
    if (rc < 0)
        return rc;
    snprintf(path, sizeof path, "%s%s%ld", target, mark, (long)getpid());
    sweep(target);
    while ((t->fd = make(path, folder)) >= 0 && !keep(t->fd, path))
        close(t->fd);
    if (t->fd < 0 && errno == EEXIST)
        return sq_fail(SQ_E_IO, "cannot write '%s': another program writes it, or remove '%s'", target, path);
    if (t->fd < 0)
        return sq_fail(SQ_E_IO, "cannot write '%s': %s", target, strerror(errno));
    memcpy(t->path, path, sizeof path);
    return 0;
}

int sq_temp_file(struct sq_temp *t, const char *target)
{
    return open_temp(t, target, false);
}

int sq_temp_folder(struct sq_temp *t, const char *target)
{
    return open_temp(t, target, true);
}

static void sync_folder(const char *path)
{
    char folder[SQ_TEMP_TARGET];
    const char *name;
    folder_of(folder, &name, path);
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd); /* not every file system can; the file itself is safe */
        close(fd);
    }
}

int sq_temp_finish(struct sq_temp *t)
{
    if (sq_fault(SQ_FAULT_RENAME) || rename(t->path, t->target) < 0)
        return sq_fail(SQ_E_IO, "cannot write '%s': %s", t->target, strerror(errno));
    t->path[0] = 0;
    close(t->fd);
    sync_folder(t->target);
    return 0;
}

void sq_temp_remove(struct sq_temp *t)
{
    const int e = errno;
    if (!t->path[0])
        return;
    discard(t->path);
    close(t->fd);
    t->path[0] = 0;
    errno = e;
}
