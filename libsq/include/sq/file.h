/* sq/file.h - files that are read as a whole or mapped */
#ifndef SQ_FILE_H
#define SQ_FILE_H

#include "sq/base.h"

SQ_BEGIN_DECLS

/* Open a regular file for reading: *fd is the caller's to close, *size in bytes. SQ_E_IO, and *fd -1, for anything else: a
 * folder, or a FIFO, whose writer is not waited for. */
int sq_file_open(int *fd, int64_t *size, const char *path) SQ_MUSTUSE;

SQ_END_DECLS
#endif
