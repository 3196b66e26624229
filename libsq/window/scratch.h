/* files without a name, for what a run keeps on disk while it lasts */
#ifndef SQ_SCRATCH_H
#define SQ_SCRATCH_H

#include "sq/base.h"

/* An open file in dir, else in $TMPDIR or /tmp, that nobody else sees and that goes when it is closed. */
int scratch_open(int *fd, const char *dir) SQ_MUSTUSE;
/* n zeroed floats in such a file, its disk space reserved; for scratch_unmap(). */
int scratch_map(float **out, int64_t n, const char *dir) SQ_MUSTUSE;
void scratch_unmap(float *x, int64_t n);

#endif
