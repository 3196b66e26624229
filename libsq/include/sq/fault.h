/* sq/fault.h - failures on purpose: SQ_FAULT=write:3 makes the fourth write of a program fail, once. For tests, which count up
 * from 0 until the program succeeds. */
#ifndef SQ_FAULT_H
#define SQ_FAULT_H

#include "sq/base.h"

SQ_BEGIN_DECLS

enum sq_fault {
    SQ_FAULT_ALLOC,  /* memory of sq_alloc: ENOMEM */
    SQ_FAULT_OPEN,   /* opening, making and mapping files: EMFILE */
    SQ_FAULT_READ,   /* EIO */
    SQ_FAULT_WRITE,  /* also reserving space: ENOSPC */
    SQ_FAULT_SYNC,   /* EIO */
    SQ_FAULT_RENAME, /* EIO */
    SQ_FAULTS
};

/* From the text of SQ_FAULT; NULL: nothing fails. SQ_E_ARG. */
int sq_fault_set(const char *text) SQ_MUSTUSE;
/* Asked in place of the call: true when it is the one that fails, errno set. One comparison where nothing fails. */
bool sq_fault(enum sq_fault kind);

SQ_END_DECLS
#endif
