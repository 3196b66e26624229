/* Ids of real tokenizers on real texts, from ../shared. The digests are those of the ids that Hugging Face tokenizers gives:
 * tests/long/tokenizer_ids.py compares the ids themselves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sq/gguf.h"
#include "sq/hash.h"
#include "sq/tok.h"

#define SHARED "../shared/"

static char *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *p = malloc(*n + 1);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, *n, f), *n);
    p[*n] = 0;
    fclose(f);
    return p;
}

#define NEED(p, path)                                  \
    do {                                               \
        if (!(p)) {                                    \
            print_message("skipped: %s is absent\n", path); \
            skip();                                    \
        }                                              \
    } while (0)

static const struct {
    const char *tokenizer, *text;
    int64_t n;
    const char *digest;
} figures[] = {
#include "../tok_figures.h"
};

static void test_figures(void **state)
{
    (void)state;
    struct sq_tok *tok = NULL;
    const char *loaded = "";
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        char path[256], digest[SQ_HASH_TEXT];
        size_t n;
        if (strcmp(loaded, figures[i].tokenizer) != 0) {
            snprintf(path, sizeof path, SHARED "%s", figures[i].tokenizer);
            char *json = slurp(path, &n);
            NEED(json, path);
            sq_tok_free(&tok);
            if (sq_tok_from_json(&tok, json, n, NULL, 0) < 0)
                fail_msg("%s: %s", path, sq_errmsg());
            free(json);
            loaded = figures[i].tokenizer;
        }
        snprintf(path, sizeof path, "%s%s", strncmp(figures[i].text, "tests/", 6) == 0 ? "" : SHARED, figures[i].text);
        char *text = slurp(path, &n);
        NEED(text, path);
        struct sq_ids ids = SQ_IDS_INIT;
        assert_int_equal(sq_tok_encode(&ids, tok, text, n, SQ_TOK_RULE), 0);
        sq_hash_text(digest, sq_hash_of(ids.v, (size_t)ids.n * sizeof *ids.v));
        if (ids.n != figures[i].n || strcmp(digest, figures[i].digest) != 0)
            fail_msg("{\"%s\", \"%s\", %lld, \"%s\"},", figures[i].tokenizer, figures[i].text, (long long)ids.n, digest);
        char *back;
        size_t len;
        const bool whole = strstr("models/tiny/tokenizer.json data/tokenizers/gpt2.tokenizer.json data/tokenizers/llama2.tokenizer.json",
                                  figures[i].tokenizer);
        if (whole && !strstr(path, "edge")) { /* nothing unknown, nothing normalized, no special token: the text comes back */
            assert_int_equal(sq_tok_decode(&back, &len, tok, ids.v, ids.n, true), 0);
            assert_int_equal(len, n);
            assert_memory_equal(back, text, n);
            sq_free(back);
        }
        sq_ids_release(&ids);
        free(text);
    }
    sq_tok_free(&tok);
}

/* The test strings of llama.cpp: .inp holds them, .out a line of ids for each. */
static void expect_strings(const struct sq_tok *tok, const char *path)
{
    static const char between[] = "\n__ggml_vocab_test__\n";
    char name[256];
    size_t n, m, cases = 0;
    snprintf(name, sizeof name, "%s.inp", path);
    char *inp = slurp(name, &n);
    NEED(inp, name);
    snprintf(name, sizeof name, "%s.out", path);
    char *out = slurp(name, &m);
    NEED(out, name);
    char *line = out;
    for (char *p = inp, *next; p; p = next, cases++) {
        struct sq_ids ids = SQ_IDS_INIT;
        next = strstr(p, between);
        const size_t len = next ? (size_t)(next - p) : strlen(p);
        next = next ? next + strlen(between) : NULL;
        assert_int_equal(sq_tok_encode(&ids, tok, p, len, SQ_TOK_BARE), 0);
        char *end = strchr(line, '\n');
        if (end)
            *end = 0;
        int64_t i = 0;
        for (char *rest = line; *rest; i++) {
            char *stop;
            const long want = strtol(rest, &stop, 10);
            if (stop == rest)
                break;
            if (i >= ids.n || ids.v[i] != want)
                fail_msg("%s: case %zu, id %lld of '%.*s'", path, cases, (long long)i, (int)len, p);
            rest = stop;
        }
        assert_int_equal(i, ids.n);
        line = end ? end + 1 : line + strlen(line);
        sq_ids_release(&ids);
    }
    assert_true(cases >= 46);
    free(inp);
    free(out);
}

/* A GGUF file's keys give the ids of the tokenizer.json that it was made from: the figure of the same text. */
static void expect_figure(const struct sq_tok *tok, const char *tokenizer, const char *text)
{
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        char path[256], digest[SQ_HASH_TEXT];
        struct sq_ids ids = SQ_IDS_INIT;
        size_t n;
        if (strcmp(figures[i].tokenizer, tokenizer) != 0 || strcmp(figures[i].text, text) != 0)
            continue;
        snprintf(path, sizeof path, SHARED "%s", text);
        char *s = slurp(path, &n);
        NEED(s, path);
        assert_int_equal(sq_tok_encode(&ids, tok, s, n, SQ_TOK_RULE), 0);
        sq_hash_text(digest, sq_hash_of(ids.v, (size_t)ids.n * sizeof *ids.v));
        assert_string_equal(digest, figures[i].digest);
        sq_ids_release(&ids);
        free(s);
        return;
    }
    fail_msg("no figure of %s and %s", tokenizer, text);
}

static void from_gguf(const char *name)
{
    struct sq_gguf *g;
    struct sq_tok *tok;
    json_t *keys;
    char path[256];
    size_t n;
    snprintf(path, sizeof path, SHARED "data/vocab/ggml-vocab-%s.gguf", name);
    char *there = slurp(path, &n);
    NEED(there, path);
    free(there);
    assert_int_equal(sq_gguf_open(&g, path), 0);
    assert_int_equal(sq_gguf_json(&keys, g, "tokenizer."), 0);
    sq_gguf_close(&g);
    char *json = json_dumps(keys, JSON_COMPACT);
    json_decref(keys);
    if (sq_tok_from_gguf_json(&tok, json, strlen(json)) < 0)
        fail_msg("%s: %s", name, sq_errmsg());
    free(json);
    expect_strings(tok, path);
    if (strcmp(name, "gpt-2") == 0)
        expect_figure(tok, "data/tokenizers/gpt2.tokenizer.json", "data/wikitext2/wiki.test.raw");
    if (strcmp(name, "llama-spm") == 0)
        expect_figure(tok, "data/tokenizers/llama2.tokenizer.json", "data/wikitext2/wiki.test.raw");
    sq_tok_free(&tok);
}

static void test_gguf(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt-2", "starcoder", "falcon", "deepseek-coder", "llama-spm", "phi-3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        from_gguf(names[i]);
}

/* ---- rank files: "BASE64 RANK" a line; a token's merge is what remains of it when only lower ranks may merge ---- */

struct rank_file {
    struct sq_tok_str *raw, *letters, *merge; /* [n] bytes; in GPT-2's alphabet; [nmerge] */
    int64_t n, nmerge;
};

static int value64(char c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'                                           ? 62
                                                                : 63;
}

static struct sq_tok_str unbase64(const char *s, size_t n)
{
    char *p = calloc(1, n + 1);
    size_t len = 0;
    assert_non_null(p);
    uint32_t bits = 0;
    int have = 0;
    for (size_t i = 0; i < n && s[i] != '='; i++) {
        bits = bits << 6 | (uint32_t)value64(s[i]);
        have += 6;
        if (have >= 8) {
            have -= 8;
            p[len++] = (char)(bits >> have);
        }
    }
    return (struct sq_tok_str){p, len};
}

static struct sq_tok_str in_letters(const char *s, size_t n)
{
    static char table[256][3];
    if (!table[0][0])
        for (int b = 0, c = 0x100; b < 256; b++) {
            const bool self = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
            const int x = self ? b : c++;
            table[b][0] = (char)(x < 0x80 ? x : 0xc0 | x >> 6);
            table[b][1] = (char)(x < 0x80 ? 0 : 0x80 | (x & 63));
        }
    char *p = calloc(1, 2 * n + 1);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++)
        strcat(p + (i ? strlen(p) : 0), table[(unsigned char)s[i]]);
    return (struct sq_tok_str){p, strlen(p)};
}

static const struct rank_file *sorting;

static int by_raw(const void *a, const void *b)
{
    const struct sq_tok_str x = sorting->raw[*(const int32_t *)a], y = sorting->raw[*(const int32_t *)b];
    const int c = memcmp(x.p, y.p, x.n < y.n ? x.n : y.n);
    return c ? c : (x.n > y.n) - (x.n < y.n);
}

static int64_t rank_of(const struct rank_file *f, const int32_t *order, const char *s, size_t n)
{
    int64_t low = 0, high = f->n;
    while (low < high) {
        const int64_t mid = (low + high) / 2;
        const struct sq_tok_str t = f->raw[order[mid]];
        const int c = memcmp(t.p, s, t.n < n ? t.n : n);
        if (c < 0 || (c == 0 && t.n < n))
            low = mid + 1;
        else
            high = mid;
    }
    if (low < f->n && f->raw[order[low]].n == n && memcmp(f->raw[order[low]].p, s, n) == 0)
        return order[low];
    return -1;
}

static void derive_merges(struct rank_file *f)
{
    int32_t *order = calloc((size_t)f->n, sizeof *order);
    f->merge = calloc((size_t)f->n, sizeof *f->merge);
    assert_true(order && f->merge);
    for (int64_t i = 0; i < f->n; i++)
        order[i] = (int32_t)i;
    sorting = f;
    qsort(order, (size_t)f->n, sizeof *order, by_raw);
    for (int64_t t = 0; t < f->n; t++) {
        const struct sq_tok_str s = f->raw[t];
        size_t cut[256];
        int64_t n = (int64_t)s.n;
        if (n < 2 || n > 255)
            continue;
        for (int64_t i = 0; i <= n; i++)
            cut[i] = (size_t)i;
        for (;;) {
            int64_t best = -1, at = -1;
            for (int64_t i = 0; i + 1 < n; i++) {
                const int64_t r = rank_of(f, order, s.p + cut[i], cut[i + 2] - cut[i]);
                if (r >= 0 && r < t && (best < 0 || r < best)) {
                    best = r;
                    at = i;
                }
            }
            if (best < 0)
                break;
            memmove(cut + at + 1, cut + at + 2, (size_t)(n - at - 1) * sizeof *cut);
            n--;
        }
        if (n != 2)
            continue; /* never made by merging: whole words only */
        const struct sq_tok_str a = in_letters(s.p, cut[1]), b = in_letters(s.p + cut[1], s.n - cut[1]);
        char *both = malloc(a.n + b.n + 2);
        assert_non_null(both);
        f->merge[f->nmerge++] = (struct sq_tok_str){both, (size_t)sprintf(both, "%s %s", a.p, b.p)};
        free((void *)(uintptr_t)a.p);
        free((void *)(uintptr_t)b.p);
    }
    free(order);
}

static void rank_file_read(struct rank_file *f, char *text)
{
    f->raw = calloc(200000, sizeof *f->raw);
    f->letters = calloc(200000, sizeof *f->letters);
    assert_true(f->raw && f->letters);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        const char *gap = strchr(line, ' ');
        assert_non_null(gap);
        assert_int_equal(atoll(gap), f->n);
        f->raw[f->n] = unbase64(line, (size_t)(gap - line));
        f->letters[f->n] = in_letters(f->raw[f->n].p, f->raw[f->n].n);
        f->n++;
    }
    derive_merges(f);
}

static void free_all(struct sq_tok_str *s, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        free((void *)(uintptr_t)s[i].p);
    free(s);
}

static void from_ranks(const char *file, const char *const *pres, const char *const *names, int n)
{
    struct rank_file f = {0};
    struct sq_tok_keys k = SQ_TOK_KEYS_INIT;
    char path[256];
    size_t size;
    snprintf(path, sizeof path, SHARED "data/tokenizers/%s", file);
    char *text = slurp(path, &size);
    NEED(text, path);
    rank_file_read(&f, text);
    free(text);
    k.model = "gpt2";
    k.token = f.letters;
    k.merge = f.merge;
    k.ntoken = f.n;
    k.nmerge = f.nmerge;
    k.add_bos = 0;
    for (int i = 0; i < n; i++) {
        struct sq_tok *tok;
        k.pre = pres[i];
        if (sq_tok_from_keys(&tok, &k) < 0)
            fail_msg("%s: %s", names[i], sq_errmsg());
        snprintf(path, sizeof path, SHARED "data/vocab/ggml-vocab-%s.gguf", names[i]);
        expect_strings(tok, path);
        sq_tok_free(&tok);
    }
    free_all(f.raw, f.n);
    free_all(f.letters, f.n);
    free_all(f.merge, f.nmerge);
}

static void test_llama3(void **state)
{
    (void)state;
    from_ranks("llama3.tokenizer.model.tiktoken", (const char *[]){"llama-bpe", "llama3"},
               (const char *[]){"llama-bpe", "llama-bpe"}, 2);
}

static void test_qwen(void **state)
{
    (void)state;
    from_ranks("qwen.tiktoken", (const char *[]){"qwen2", "deepseek-r1-qwen"}, (const char *[]){"qwen2", "deepseek-r1-qwen"}, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures), cmocka_unit_test(test_gguf), cmocka_unit_test(test_llama3), cmocka_unit_test(test_qwen),
    };
    return cmocka_run_group_tests_name("tok_shared", tests, NULL, NULL);
}
