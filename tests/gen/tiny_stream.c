/* tiny_stream LAYERS SAMPLES LENGTH HELDOUT [SEED]: a small random model with tokens, as a stream on stdout;
 * SAMPLES 0: without tokens */
#include "../tiny_stream.h"

#include <stdlib.h>

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: tiny_stream LAYERS SAMPLES LENGTH HELDOUT [SEED]\n");
        return 2;
    }
    struct tiny m = {.layers = atoi(argv[1]), .samples = atoi(argv[2]), .length = atoi(argv[3]),
                     .heldout = atoi(argv[4]),
                     .seed = argc > 5 ? atoi(argv[5]) : 1, .hidden = 32, .ffn = 48, .vocab = 64};
    m.no_tokens = m.samples == 0;
    const int rc = tiny_write("-", &m);
    if (rc < 0)
        fprintf(stderr, "tiny_stream: %s\n", sq_errmsg());
    return rc < 0;
}
