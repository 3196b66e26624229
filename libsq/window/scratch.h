/* files without a name, for what a run keeps on disk while it lasts */
#ifndef SQ_SCRATCH_H
#define SQ_SCRATCH_H

#include "sq/base.h"

/* dir, else $TMPDIR or /tmp */
const char *scratch_dir(const char *dir);
/* An open file in scratch_dir(dir) that nobody else sees and that goes when it is closed. */
int scratch_open(int *fd, const char *dir) SQ_MUSTUSE;
/* That many zeroed bytes in such a file, its disk space reserved; for scratch_unmap(). */
int scratch_map(char **out, size_t bytes, const char *dir) SQ_MUSTUSE;
void scratch_unmap(char *x, size_t bytes);

#endif
