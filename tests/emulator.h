/* The backend cuda of a test: the emulator of its own build. */
#ifndef SQ_TESTS_EMULATOR_H
#define SQ_TESTS_EMULATOR_H

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* BUILD/lib/sq/libsq_emu.so of BUILD/tests/X/test_Y becomes the library that sq_ops_get() opens. */
static inline void emulator_use(void)
{
    char exe[PATH_MAX], path[PATH_MAX + 64];
    const ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n < 0 ? 0 : n] = 0;
    for (int up = 0; up < 3; up++) {
        char *slash = strrchr(exe, '/');
        if (slash)
            *slash = 0;
    }
    snprintf(path, sizeof path, "%s/lib/sq/libsq_emu.so", exe);
    setenv("SQ_CUDA_LIB", path, 1);
}

#endif
