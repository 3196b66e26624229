/* any bytes as a safetensors file: parse, then touch every byte of every tensor */
#include "sq/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sq_safetensors *s = NULL;
    struct sq_tensor t = SQ_TENSOR_INIT;
    volatile uint8_t sum = 0;

    if (sq_safetensors_parse(&s, data, n, "fuzz") < 0)
        return 0;
    for (int64_t i = 0; i < sq_safetensors_count(s); i++) {
        SQ_ASSERT(sq_safetensors_find(s, sq_safetensors_at(s, i)->name) == i);
        if (sq_safetensors_get(&t, s, i) < 0)
            continue;
        for (size_t k = 0; k < sq_tensor_bytes(&t); k++)
            sum = (uint8_t)(sum + ((const uint8_t *)t.data)[k]);
    }
    sq_tensor_release(&t);
    sq_safetensors_close(&s);
    return 0;
}
