/* any bytes as config.json and as the normalised config of a model record */
#include "sq/config.h"
#include "sq/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void use(const struct sq_config *c)
{
    char name[SQ_LINEAR_NAME];
    struct sq_config back;
    json_t *j = NULL;
    float *inv = NULL;
    int64_t r, k, sum = 0;
    for (int64_t i = 0; i < sq_config_linears(c); i++) {
        sq_linear_name(name, c, i);
        sq_linear_shape(&r, &k, c, i);
        sum += r * k;
    }
    SQ_ASSERT(sum > 0 && c->heads * c->head_dim <= 1 << 20);
    if (sq_alloc(&inv, c->head_dim / 2) == 0)
        sq_rope_freqs(inv, c);
    sq_free(inv);
    if (sq_config_to_json(&j, c) == 0)
        SQ_ASSERT(sq_config_from_json(&back, j) == 0);
    json_decref(j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sq_config c;
    json_t *j = NULL;
    if (sq_json_parse(&j, (const char *)data, n, "fuzz") < 0)
        return 0;
    if (sq_config_read(&c, j) == 0)
        use(&c);
    if (sq_config_from_json(&c, j) == 0)
        use(&c);
    json_decref(j);
    return 0;
}
