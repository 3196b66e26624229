/* The bytes are what a worker is sent: it computes, or refuses with a reason. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sq/engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const struct sq_plan plan = {.batch = 1};
    struct sq_app app = {.prog = "fuzz_worker", .no_prov = true, .precision = SQ_F32_PRODUCTS};
    struct sq_stream *in = NULL, *out = NULL;
    const int fd = memfd_create("fuzz", 0);
    char spec[32];
    int rc = 0;

    sq_log_set("fuzz_worker", SQ_ERROR);
    if (fd < 0)
        return 0;
    snprintf(spec, sizeof spec, "fd:%d", fd);
    if (write(fd, data, n) != (ssize_t)n || lseek(fd, 0, SEEK_SET) != 0) {
        close(fd);
        return 0;
    }
    SQ_TRY(sq_stream_open(&in, spec, SQ_READ));
    SQ_TRY(sq_stream_open(&out, "/dev/null", SQ_WRITE));
    SQ_TRY(sq_window_worker(out, in, &plan, &app));
out:
    if (rc < 0 && !*sq_errmsg())
        __builtin_trap();
    sq_stream_abort(&out, rc);
    sq_stream_abort(&in, rc);
    return 0;
}
