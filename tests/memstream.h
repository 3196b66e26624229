/* Streams in memory for tests: a memfd behind "fd:N". Include after cmocka.h. */
#ifndef MEMSTREAM_H
#define MEMSTREAM_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sq/stream.h"

static inline int mem_fd(const void *bytes, size_t n)
{
    const int fd = memfd_create("stream", 0);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), n);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

/* The stream takes the descriptor. */
static inline int mem_open(struct sq_stream **s, int fd, enum sq_dir dir)
{
    char spec[32];
    snprintf(spec, sizeof spec, "fd:%d", fd);
    return sq_stream_open(s, spec, dir);
}

static inline int mem_reader(struct sq_stream **s, const void *bytes, size_t n)
{
    return mem_open(s, mem_fd(bytes, n), SQ_READ);
}

/* A writer whose bytes stay readable through *fd after finish. */
static inline void mem_writer(struct sq_stream **s, int *fd)
{
    *fd = mem_fd("", 0);
    assert_int_equal(mem_open(s, dup(*fd), SQ_WRITE), 0);
}

/* What was written; free with free(). */
static inline uint8_t *mem_bytes(int fd, size_t *n)
{
    *n = (size_t)lseek(fd, 0, SEEK_END);
    uint8_t *p = malloc(*n ? *n : 1);
    assert_non_null(p);
    assert_int_equal(pread(fd, p, *n, 0), *n);
    close(fd);
    return p;
}

#endif
