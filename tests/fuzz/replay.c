/* Drives a fuzz target without libFuzzer: every file of the folder given, and seeded mutations of each. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { LIMIT = 1 << 20, MUTATIONS = 300 };

static uint64_t state = 1;

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* a flipped byte, a removed tail, a repeated or a removed piece: what decoders trip over */
static size_t mutate(uint8_t *buf, size_t n, size_t cap)
{
    static const uint8_t edge[] = {0, 1, 0x7f, 0x80, 0xff, 0xc6, 0xdb, 0xdf, '{', '[', '"', '9'};
    for (uint64_t k = rnd() % 4 + 1; k && n; k--) {
        const size_t at = rnd() % n, len = rnd() % (n - at) % 64 + 1;
        switch (rnd() % 5) {
        case 0: buf[at] ^= (uint8_t)(1u << rnd() % 8); break;
        case 1: buf[at] = edge[rnd() % sizeof edge]; break;
        case 2: n = at; break;
        case 3:
            if (at + len < n) {
                memmove(buf + at, buf + at + len, n - at - len);
                n -= len;
            }
            break;
        default:
            if (n + len <= cap && at + len <= n) {
                memmove(buf + at + len, buf + at, n - at);
                n += len;
            }
        }
    }
    return n;
}

static int run_file(const char *path)
{
    uint8_t *seed = malloc(LIMIT), *buf = malloc(LIMIT);
    FILE *f = fopen(path, "rb");
    if (!f || !seed || !buf)
        return 1;
    const size_t n = fread(seed, 1, LIMIT, f);
    fclose(f);
    LLVMFuzzerTestOneInput(seed, n);
    for (int i = 0; i < MUTATIONS; i++) {
        memcpy(buf, seed, n);
        const size_t m = mutate(buf, n, LIMIT);
        uint8_t *exact = malloc(m ? m : 1); /* its own block, so that a sanitizer sees one byte too many */
        if (!exact)
            return 1;
        memcpy(exact, buf, m);
        LLVMFuzzerTestOneInput(exact, m);
        free(exact);
    }
    free(seed);
    free(buf);
    return 0;
}

int main(int argc, char **argv)
{
    int files = 0;
    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        if (!d) {
            fprintf(stderr, "no corpus in %s\n", argv[i]);
            return 1;
        }
        for (struct dirent *e; (e = readdir(d));) {
            char path[4096];
            if (e->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
            if (run_file(path))
                return 1;
            files++;
        }
        closedir(d);
    }
    printf("%d inputs, %d mutations of each\n", files, MUTATIONS);
    return files == 0;
}
