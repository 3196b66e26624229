/* sq/stop.h - SIGTERM and SIGINT: finish what must not be half-written, then die of the signal */
#ifndef SQ_STOP_H
#define SQ_STOP_H

#include "sq/base.h"

SQ_BEGIN_DECLS

/* From now on SIGINT and SIGTERM only set a flag; blocked system calls return EINTR. A second signal kills.
 */
void sq_stop_catch(void);
/* The signal that came, 0 for none. */
int sq_stopped(void);
/* 0, or SQ_E_IO with a text that names the signal: long loops and blocked reads ask. */
int sq_stop_check(void) SQ_MUSTUSE;
/* Die of the signal that came, so that a shell sees it (status 128 + signal); returns when none came. */
void sq_stop_raise(void);

SQ_END_DECLS
#endif
