#include "sq/fault.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int error;
} table[SQ_FAULTS] = {
    [SQ_FAULT_ALLOC] = {"alloc", ENOMEM}, [SQ_FAULT_OPEN] = {"open", EMFILE}, [SQ_FAULT_READ] = {"read", EIO},
    [SQ_FAULT_WRITE] = {"write", ENOSPC}, [SQ_FAULT_SYNC] = {"sync", EIO},    [SQ_FAULT_RENAME] = {"rename", EIO},
};

static int armed = -1;           /* the kind that fails, -1: none */
static _Atomic int64_t left;     /* calls before that */

int sq_fault_set(const char *text)
{
    char name[16];
    long n;
    int end = 0;
    armed = -1;
    if (!text)
        return 0;
    if (sscanf(text, "%15[a-z]:%9ld%n", name, &n, &end) == 2 && n >= 0 && !text[end])
        for (int i = 0; i < SQ_FAULTS; i++)
            if (strcmp(name, table[i].name) == 0)
                armed = i;
    if (armed < 0)
        return sq_fail(SQ_E_ARG, "SQ_FAULT is '%s', not alloc, open, read, write, sync or rename, a colon and a number", text);
    atomic_store(&left, n);
    return 0;
}

bool sq_fault(enum sq_fault kind)
{
    if (armed != (int)kind || atomic_fetch_sub(&left, 1) != 0)
        return false;
    errno = table[kind].error;
    return true;
}
