#include "sq/device.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* DIR/../lib/sq/NAME of the program's own directory */
static int beside_program(char *path, size_t n, const char *name)
{
    char exe[PATH_MAX];
    const ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (len < 0)
        return sq_fail(SQ_E_IO, "the program's own path cannot be read");
    exe[len] = 0;
    char *slash = strrchr(exe, '/');
    if (slash)
        *slash = 0;
    if (snprintf(path, n, "%s/../lib/sq/%s", exe, name) >= (int)n)
        return sq_fail(SQ_E_IO, "the program's own path is too long");
    return 0;
}

int sq_device_number(int *out, const char *text)
{
    char *end;
    const char *digits = text && strncmp(text, "cuda:", 5) == 0 ? text + 5 : "";
    const long n = strtol(digits, &end, 10);
    *out = 0;
    if (!text)
        return 0;
    if (*digits < '0' || *digits > '9' || *end || n > 1023)
        return sq_fail(SQ_E_ARG, "--device is '%s', not cuda:N", text);
    *out = (int)n;
    return 0;
}

int sq_device_load(const struct sq_device **out, bool emulate)
{
    char path[PATH_MAX];
    const char *given = emulate ? NULL : getenv("SQ_CUDA_LIB"), *const name =
                                                                    emulate ? "libsq_emu.so" : "libsq_cuda.so";
    sq_device_entry_fn *entry = NULL;
    *out = NULL;
    if (given && given[0] != '/')
        return sq_fail(SQ_E_ARG, "SQ_CUDA_LIB is '%s', not an absolute path", given);
    if (!given) {
        const int rc = beside_program(path, sizeof path, name);
        if (rc < 0)
            return rc;
    }
    void *library = dlopen(given ? given : path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return sq_fail(SQ_E_UNSUP, "%s", dlerror());
    void *symbol = dlsym(library, SQ_DEVICE_ENTRY);
    memcpy(&entry, &symbol, sizeof entry);
    const struct sq_device *d = entry ? entry() : NULL;
    if (!d || d->abi != SQ_DEVICE_ABI || d->size != sizeof *d + sizeof *d->ops) {
        dlclose(library);
        return sq_fail(SQ_E_UNSUP, "%s is of another version: build it again", given ? given : path);
    }
    *out = d;
    return 0;
}
