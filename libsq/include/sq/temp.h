/* sq/temp.h - an output that is not complete yet: it lies beside its place, and gets its name when it is */
#ifndef SQ_TEMP_H
#define SQ_TEMP_H

#include "sq/base.h"

SQ_BEGIN_DECLS

enum { SQ_TEMP_TARGET = 4096, SQ_TEMP_PATH = SQ_TEMP_TARGET + 32 };

/* path is TARGET.sq-tmp-PID, "" where there is none (all zero: none). fd is open as long as there is a path and holds a lock
 * (flock) on it, which goes with the process: what lies there under such a name without a lock was left by a program that was
 * killed, and is removed when the next one begins to write the same target. Where the file system has no locks it stays. */
struct sq_temp {
    char target[SQ_TEMP_TARGET], path[SQ_TEMP_PATH];
    int fd;
};

/* Make an empty file, or folder, for target; where that is a link, for what it leads to. Nothing else may lie there: no folder,
 * FIFO or device in place of a file. SQ_E_IO, SQ_E_ARG: there is none then. */
int sq_temp_file(struct sq_temp *t, const char *target) SQ_MUSTUSE;
int sq_temp_folder(struct sq_temp *t, const char *target) SQ_MUSTUSE;
/* Give it its name, in place of a file (an empty folder) that has it. What was written must be on disk; the name is then.
 * SQ_E_IO: nothing has changed. */
int sq_temp_finish(struct sq_temp *t) SQ_MUSTUSE;
/* Away with it, if there is one: a folder with the plain files in it. Keeps errno and sq_errmsg(). */
void sq_temp_remove(struct sq_temp *t);

SQ_END_DECLS
#endif
