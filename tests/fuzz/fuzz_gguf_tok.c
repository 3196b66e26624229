/* any bytes as the tokenizer files that become GGUF keys: "tokenizer.json \0 tokenizer_config.json", or, after a first
 * byte 'g', tokenizer.gguf.json; what comes out must be a GGUF header that our reader takes */
#include <string.h>

#include "../../libsq/pack/gguf_tok.h"
#include "sq/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void read_back(const struct bytes *kv)
{
    struct bytes file = {0};
    struct sq_gguf *g = NULL;
    bytes_add(&file, "GGUF", 4);
    bytes_u32(&file, 3);
    bytes_u64(&file, 0);
    bytes_u64(&file, (uint64_t)kv->pairs);
    bytes_add(&file, kv->p, kv->n);
    bytes_pad(&file, 32);
    /* a tokenizer.gguf.json may say what no reader takes (other keys, none twice), but never more than there is */
    if (file.rc == 0 && sq_gguf_parse(&g, file.p, file.n, "fuzz") == 0)
        sq_gguf_close(&g);
    bytes_release(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sq_side side[2] = {{.name = "tokenizer.json"}, {.name = "tokenizer_config.json"}};
    struct side_files files = {.file = side, .n = 1};
    struct bytes kv = {0};
    json_t *config = json_object();

    if (n > 0 && data[0] == 'g') {
        side[0] = (struct sq_side){.name = "tokenizer.gguf.json", .data = data + 1, .size = n - 1};
    } else {
        const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
        side[0].data = data;
        side[0].size = zero ? (size_t)(zero - data) : n;
        side[1].data = zero ? zero + 1 : NULL;
        side[1].size = zero ? n - side[0].size - 1 : 0;
        files.n = zero ? 2 : 1;
    }
    sq_log_set("fuzz", SQ_ERROR);
    if (gguf_tokenizer(&kv, &files, config, 64) == 0)
        read_back(&kv);
    bytes_release(&kv);
    json_decref(config);
    return 0;
}
