/* any bytes as a model: a GGUF file or a stream, read to its end through the source */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sq/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void drain(struct sq_source *s)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    struct sq_layer l = SQ_LAYER_INIT;
    int rc;
    while ((rc = sq_source_top(s, &t)) > 0)
        ;
    while (rc == 0 && (rc = sq_source_layer(s, &l)) > 0)
        for (int64_t i = 0; i < l.ntensor; i++)
            rc |= sq_tensor_check_finite(&l.tensor[i]) < 0;
    while (rc == 0 && (rc = sq_source_top(s, &t)) > 0)
        ;
    sq_tensor_release(&t);
    sq_layer_release(&l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sq_source *s = NULL;
    char path[64];
    const int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n)
        return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (sq_source_open(&s, path) == 0)
        drain(s);
    sq_source_close(&s);
    close(fd);
    return 0;
}
