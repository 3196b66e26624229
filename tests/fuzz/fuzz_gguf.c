/* any bytes as a GGUF file: parse, all keys as JSON, all tensors dequantized */
#include "sq/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sq_gguf *g = NULL;
    json_t *keys = NULL;

    if (sq_gguf_parse(&g, data, n, "fuzz") < 0)
        return 0;
    if (sq_gguf_json(&keys, g, "") == 0)
        json_decref(keys);
    for (int64_t i = 0; i < sq_gguf_tensors(g); i++) {
        const struct sq_gguf_tensor *t = sq_gguf_tensor(g, i);
        int64_t count = 1;
        float *y = NULL;
        SQ_ASSERT(sq_gguf_find(g, t->name) == i);
        for (int k = 0; k < t->ndim; k++)
            count *= t->ne[k];
        if (sq_alloc(&y, count) == 0)
            sq_gguf_dequant(y, t->type, t->data, count);
        sq_free(y);
    }
    sq_gguf_close(&g);
    return 0;
}
