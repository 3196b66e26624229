/* tokenize [--bare] [--decode] TOKENIZER.json [CONFIG.json] <text - the ids, one a line; or for ids on the input, their text.
 * A name that ends in gguf.json is taken as GGUF keys. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sq/hash.h"
#include "sq/tok.h"

static char *slurp(FILE *f, size_t *n)
{
    size_t cap = 1 << 16;
    char *p = malloc(cap);
    *n = 0;
    for (size_t got; p && (got = fread(p + *n, 1, cap - *n, f)) > 0;) {
        *n += got;
        if (*n == cap)
            p = realloc(p, cap *= 2);
    }
    return p;
}

static int load(struct sq_tok **tok, const char *json, const char *config)
{
    FILE *f = fopen(json, "rb"), *g = config ? fopen(config, "rb") : NULL;
    size_t n = 0, m = 0;
    if (!f || (config && !g))
        return sq_fail(SQ_E_IO, "cannot read '%s'", f ? config : json);
    char *a = slurp(f, &n), *b = g ? slurp(g, &m) : NULL;
    const size_t len = strlen(json);
    const int rc = len >= 9 && strcmp(json + len - 9, "gguf.json") == 0 ? sq_tok_from_gguf_json(tok, a, n)
                                                                      : sq_tok_from_json(tok, a, n, b, m);
    free(a);
    free(b);
    fclose(f);
    if (g)
        fclose(g);
    return rc;
}

int main(int argc, char **argv)
{
    struct sq_tok *tok = NULL;
    struct sq_ids ids = SQ_IDS_INIT;
    bool bare = false, decode = false;
    char *text = NULL, *back = NULL;
    size_t n, len;
    int rc, at = 1;

    for (; at < argc && argv[at][0] == '-'; at++) {
        bare = bare || strcmp(argv[at], "--bare") == 0;
        decode = decode || strcmp(argv[at], "--decode") == 0;
    }
    if (at >= argc) {
        fprintf(stderr, "usage: tokenize [--bare] [--decode] TOKENIZER.json [CONFIG.json] <text >ids\n");
        return 2;
    }
    const double t0 = sq_now();
    SQ_TRY(load(&tok, argv[at], at + 1 < argc ? argv[at + 1] : NULL));
    const double t1 = sq_now();
    text = slurp(stdin, &n);
    if (decode) {
        for (char *p = strtok(text, " \n"); p; p = strtok(NULL, " \n"))
            SQ_TRY(sq_ids_push(&ids, (int32_t)strtol(p, NULL, 10)));
        SQ_TRY(sq_tok_decode(&back, &len, tok, ids.v, ids.n, bare));
        fwrite(back, 1, len, stdout);
    } else {
        SQ_TRY(sq_tok_encode(&ids, tok, text, n, bare ? SQ_TOK_BARE : SQ_TOK_RULE));
        char digest[SQ_HASH_TEXT];
        sq_hash_text(digest, sq_hash_of(ids.v, (size_t)ids.n * sizeof(*ids.v)));
        fprintf(stderr, "digest %s, load %.3f s, encode %.3f s, %lld ids, %lld dropped\n", digest, t1 - t0, sq_now() - t1, (long long)ids.n,
                (long long)sq_tok_dropped(tok));
        for (int64_t i = 0; i < ids.n; i++)
            printf("%d\n", ids.v[i]);
    }
out:
    if (rc < 0)
        fprintf(stderr, "tokenize: error: %s\n", sq_errmsg());
    free(text);
    sq_free(back);
    sq_ids_release(&ids);
    sq_tok_free(&tok);
    return sq_err_status(rc);
}
