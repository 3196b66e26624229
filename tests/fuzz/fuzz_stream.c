/* The bytes are a stream: list it, look at a tensor, check it, digest it. Bytes that do not begin as a stream
 * get a begin record in front, so that mutations reach what is behind it. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sq/inspect.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char begin[] = "\x84\xa6record\xa5"
                            "begin\xa5magic\xa2sq\xa7version\x92\x01\x00\xaaprovenance\x90";

/* The stream takes a descriptor of its own. */
static const char *fresh(char *spec, size_t n, int fd)
{
    const int copy = dup(fd);
    lseek(copy, 0, SEEK_SET);
    snprintf(spec, n, "fd:%d", copy);
    return spec;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static FILE *null;
    const struct sq_inspect_tensor want = {.name = "w", .layer = -1, .values = 4};
    const int fd = memfd_create("fuzz", 0);
    char spec[32], digest[SQ_HASH_TEXT];

    if (!null)
        null = fopen("/dev/null", "w");
    if (fd < 0 || !null)
        return 0;
    const size_t k = n && data[0] == 0x84 ? 0 : sizeof begin - 1;
    if (write(fd, begin, k) == (ssize_t)k && write(fd, data, n) == (ssize_t)n) {
        const int rc = sq_inspect_list(null, fresh(spec, sizeof spec, fd), true);
        if (sq_inspect_list(null, fresh(spec, sizeof spec, fd), false) != rc)
            __builtin_trap(); /* the same bytes, the same verdict */
        if (sq_inspect_tensor(null, fresh(spec, sizeof spec, fd), &want, true) == 0)
            (void)!sq_inspect_tensor(null, fresh(spec, sizeof spec, fd), &want, false);
        (void)!sq_inspect_check(null, fresh(spec, sizeof spec, fd));
        if ((sq_inspect_digest(digest, fresh(spec, sizeof spec, fd)) == 0) != (rc == 0))
            __builtin_trap();
    }
    close(fd);
    return 0;
}
