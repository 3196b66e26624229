/* A file mapped for reading, or bytes that somebody else holds. A file that shrinks while it is mapped
 * ends the process (SIGBUS), as with every program that maps files. */
#ifndef SQ_MAP_H
#define SQ_MAP_H

#include "sq/base.h"

struct sq_map {
    const uint8_t *data;
    size_t size;
    bool mapped;
};

int sq_map_open(struct sq_map *m, const char *path) SQ_MUSTUSE; /* an empty file is SQ_E_FORMAT */
void sq_map_close(struct sq_map *m);                            /* idempotent */
/* data[0..n) is not needed any more: its pages and some around it leave the resident set, to come back
 * if touched. */
void sq_map_drop(const struct sq_map *m, const void *data, size_t n);

#endif
