#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "../tokmodel.h"
#include "sq/rng.h"

static const char *const english[] = {"h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "Ġwor l", "Ġworl d", "Ġ hell",
                                      "Ġ Ġ", "1 2", "a b", "b c", "ab c", "a bc"};
enum { ENGLISH = sizeof english / sizeof *english };

static void expect_ids(const struct sq_tok *tok, const char *text, int flags, const char *want)
{
    struct sq_ids ids = SQ_IDS_INIT;
    char got[1024] = "";
    size_t n = 0;
    assert_int_equal(sq_tok_encode(&ids, tok, text, strlen(text), flags), 0);
    for (int64_t i = 0; i < ids.n; i++) {
        const struct sq_tok_str s = sq_tok_spelling(tok, ids.v[i]);
        n += (size_t)snprintf(got + n, sizeof got - n, "%s%.*s", i ? "|" : "", (int)s.n, s.p);
    }
    assert_string_equal(got, want);
    sq_ids_release(&ids);
}

static void test_merges(void **state)
{
    (void)state;
    for (int arrays = 0; arrays < 2; arrays++) {
        struct sq_tok *tok;
        assert_int_equal(tok_load(&tok, tok_model(english, ENGLISH, arrays), NULL), 0);
        assert_int_equal(sq_tok_size(tok), 256 + ENGLISH - 1);
        expect_ids(tok, "hello world", 0, "hello|Ġworld");
        expect_ids(tok, "hello  world", 0, "hello|Ġ|Ġworld");
        expect_ids(tok, "hell hello", 0, "hell|Ġ|hello");
        expect_ids(tok, "abc 1212", 0, "abc|Ġ|12|12"); /* "a b" before "b c" */
        expect_ids(tok, "", 0, "");
        expect_ids(tok, "\xc3\xa9", 0, "Ã|©");
        assert_int_equal(sq_tok_bos(tok), -1);
        assert_int_equal(sq_tok_id(tok, "hello", 5), 259);
        assert_int_equal(sq_tok_id(tok, "hellx", 5), -1);
        sq_tok_free(&tok);
        assert_null(tok);
    }
}

static void test_ignore_merges(void **state)
{
    (void)state;
    struct sq_tok *tok;
    json_t *root = tok_model(english, ENGLISH, false), *model = json_object_get(root, "model");
    json_object_set_new(json_object_get(model, "vocab"), "zzz", json_integer(300));
    json_object_set_new(model, "ignore_merges", json_true());
    assert_int_equal(tok_load(&tok, root, NULL), 0);
    expect_ids(tok, "zzz zzz hello", 0, "zzz|Ġ|z|z|z|Ġ|hello");
    sq_tok_free(&tok);
}

static json_t *added(int id, const char *content, bool special, bool lstrip, bool rstrip)
{
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", content, "special", special, "lstrip", lstrip,
                     "rstrip", rstrip, "normalized", 0, "single_word", 0);
}

static void test_added(void **state)
{
    (void)state;
    struct sq_tok *tok;
    struct sq_ids ids = SQ_IDS_INIT;
    char *text;
    size_t n;
    json_t *root = tok_model(english, ENGLISH, false), *list = json_object_get(root, "added_tokens");
    json_array_append_new(list, added(300, "<s>", true, false, false));
    json_array_append_new(list, added(301, "<s>x", false, false, false)); /* the longer one wins */
    json_array_append_new(list, added(302, "<l>", true, true, false));
    json_array_append_new(list, added(303, "<r>", true, false, true));
    json_array_append_new(list, added(304, "", true, false, false));
    json_object_set_new(root, "post_processor",
                        json_pack("{s:s, s:[{s:{s:s}}, {s:{s:s}}, {s:{s:s}}], s:{s:{s:[i]}, s:{s:[i, i]}}}", "type",
                                  "TemplateProcessing", "single", "SpecialToken", "id", "<s>", "Sequence", "id", "A",
                                  "SpecialToken", "id", "end", "special_tokens", "<s>", "ids", 300, "end", "ids", 302, 303));
    assert_int_equal(tok_load(&tok, root, "{\"eos_token\": {\"content\": \"<r>\"}, \"add_bos_token\": false}"), 0);
    assert_int_equal(sq_tok_bos(tok), 300);
    assert_int_equal(sq_tok_eos(tok), 303);
    expect_ids(tok, "a<s>b", 0, "<s>|a|<s>|b|<l>|<r>");
    expect_ids(tok, "a<s>xb", SQ_TOK_BARE, "a|<s>x|b");
    expect_ids(tok, "a \n<l> b", SQ_TOK_BARE, "a|<l>|Ġ|b");
    expect_ids(tok, "a <r> \xe2\x80\x83 b", SQ_TOK_BARE, "a|Ġ|<r>|b");
    expect_ids(tok, "<r>  <l><s", SQ_TOK_BARE, "<r>|<l>|<|s"); /* the spaces are gone once */
    assert_int_equal(sq_tok_encode(&ids, tok, "hello <s>x world", 16, 0), 0);
    assert_int_equal(sq_tok_decode(&text, &n, tok, ids.v, ids.n, true), 0);
    assert_string_equal(text, "hello <s>x world");
    sq_free(text);
    assert_int_equal(sq_tok_decode(&text, &n, tok, ids.v, ids.n, false), 0);
    assert_string_equal(text, "<s>hello <s>x world<l><r>");
    sq_free(text);
    assert_int_equal(sq_tok_decode(&text, &n, tok, (int32_t[]){0, 299}, 2, false), SQ_E_VALUE);
    assert_null(text);
    assert_string_equal(sq_errmsg(), "id 299 at 1 is not in the vocabulary");
    sq_ids_release(&ids);
    sq_tok_free(&tok);
}

static void test_config_rule(void **state)
{
    (void)state;
    struct sq_tok *tok;
    for (int bos = 0; bos < 2; bos++) {
        json_t *root = tok_model(english, ENGLISH, false);
        json_array_append_new(json_object_get(root, "added_tokens"), added(300, "<s>", true, false, false));
        assert_int_equal(tok_load(&tok, root, bos ? "{\"bos_token\": \"<s>\", \"add_bos_token\": true}"
                                                  : "{\"bos_token\": \"<s>\", \"add_bos_token\": false}"), 0);
        expect_ids(tok, "a", 0, bos ? "<s>|a" : "a");
        sq_tok_free(&tok);
    }
    assert_int_equal(tok_load(&tok, tok_model(english, ENGLISH, false), "{\"bos_token\": \"<s>\", \"add_bos_token\": true}"),
                     SQ_E_FORMAT);
}

/* Split behaviours, as the reference's documentation shows them for "the-final--countdown" */
static void test_behaviors(void **state)
{
    (void)state;
    const struct {
        const char *behavior;
        bool invert;
        const char *want;
    } cases[] = {{"Isolated", false, "t.|-|fi|-|-|c."},     {"Removed", false, "t.|fi|c."},
                 {"MergedWithPrevious", false, "t.-|fi-|-|c."}, {"MergedWithNext", false, "t.|-fi|-|-c."},
                 {"Contiguous", false, "t.|-|fi|--|c."},    {"Removed", true, "-|-|-"},
                 {"Isolated", true, "t.|-|fi|-|-|c."}};
    static const char *const joins[] = {"t .", "t. -", "f i", "fi -", "- fi", "c .", "- c.", "- -"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int regex = 0; regex < 2; regex++) {
            struct sq_tok *tok;
            json_t *root = tok_model(joins, 8, false);
            json_object_set_new(root, "pre_tokenizer",
                                json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b}]}", "type", "Sequence",
                                          "pretokenizers", "type", "Split", "pattern", regex ? "Regex" : "String", "-", "behavior",
                                          cases[i].behavior, "invert", cases[i].invert, "type", "ByteLevel",
                                          "add_prefix_space", 0, "use_regex", 0));
            assert_int_equal(tok_load(&tok, root, NULL), 0);
            expect_ids(tok, "t.-fi--c.", 0, cases[i].want);
            sq_tok_free(&tok);
        }
    }
}

static void test_normalizers(void **state)
{
    (void)state;
    struct sq_tok *tok;
    json_t *root = tok_model(english, ENGLISH, false);
    json_object_set_new(root, "normalizer",
                        json_pack("{s:s, s:[{s:s}, {s:s, s:{s:s}, s:s}, {s:s, s:s}]}", "type", "Sequence", "normalizers", "type",
                                  "NFC", "type", "Replace", "pattern", "String", "xx", "content", "y", "type", "Prepend",
                                  "prepend", "-"));
    assert_int_equal(tok_load(&tok, root, NULL), 0);
    expect_ids(tok, "e\xcc\x81xxx", 0, "-|Ã|©|y|x"); /* e + U+0301 -> U+00E9 */
    expect_ids(tok, "", 0, "");
    sq_tok_free(&tok);
}

/* The slow, obvious way: as long as there is one, apply the merge that comes first, at its leftmost place. */
static int64_t naive(int32_t *id, int64_t n, const int32_t *left, const int32_t *right, const int32_t *to, int nmerge)
{
    for (;;) {
        int best = nmerge;
        int64_t at = 0;
        for (int64_t i = 0; i + 1 < n; i++)
            for (int m = 0; m < best; m++)
                if (left[m] == id[i] && right[m] == id[i + 1]) {
                    best = m;
                    at = i;
                }
        if (best == nmerge)
            return n;
        id[at] = to[best];
        memmove(id + at + 1, id + at + 2, (size_t)(n - at - 2) * sizeof *id);
        n--;
    }
}

/* Random merges over three letters; words short enough for the scan and long enough for the heap. */
static void test_against_naive(void **state)
{
    (void)state;
    struct sq_rng rng = sq_rng_init(7, SQ_RNG_TEST, 0, 0, 0, 0);
    int64_t differs_without_last = 0;
    for (int round = 0; round < 60; round++) {
        char names[40][24], merge[40][50];
        const char *list[40];
        int32_t left[40], right[40], to[40];
        int nname = 3, nmerge = 0;
        for (int i = 0; i < 3; i++)
            snprintf(names[i], sizeof names[i], "%c", 'a' + i);
        while (nmerge < 30) {
            const int a = (int)sq_rng_below(&rng, (uint64_t)nname), b = (int)sq_rng_below(&rng, (uint64_t)nname);
            bool seen = strlen(names[a]) + strlen(names[b]) >= sizeof names[0];
            snprintf(merge[nmerge], sizeof merge[0], "%.23s %.23s", names[a], names[b]);
            for (int i = 0; i < nmerge; i++)
                seen = seen || strcmp(merge[i], merge[nmerge]) == 0;
            if (seen)
                continue;
            char both[64];
            snprintf(both, sizeof both, "%s%s", names[a], names[b]);
            bool known = false;
            for (int i = 0; i < nname; i++)
                known = known || strcmp(names[i], both) == 0;
            if (!known)
                memcpy(names[nname++], both, strlen(both) + 1);
            list[nmerge] = merge[nmerge];
            nmerge++;
        }
        struct sq_tok *tok;
        assert_int_equal(tok_load(&tok, tok_model(list, nmerge, round % 2), NULL), 0);
        for (int m = 0; m < nmerge; m++) {
            const char *gap = strchr(merge[m], ' ');
            char both[64];
            left[m] = sq_tok_id(tok, merge[m], (size_t)(gap - merge[m]));
            right[m] = sq_tok_id(tok, gap + 1, strlen(gap + 1));
            snprintf(both, sizeof both, "%.*s%.24s", (int)(gap - merge[m]), merge[m], gap + 1);
            to[m] = sq_tok_id(tok, both, strlen(both));
        }
        for (int k = 0; k < 8; k++) {
            char text[301];
            int32_t id[300];
            const int64_t n = 1 + (int64_t)sq_rng_below(&rng, k < 4 ? 44 : 300);
            for (int64_t i = 0; i < n; i++)
                text[i] = (char)('a' + sq_rng_below(&rng, 3));
            for (int pass = 0; pass < 2; pass++) { /* without the first merge the ids must differ now and then */
                for (int64_t i = 0; i < n; i++)
                    id[i] = text[i];
                const int64_t want = naive(id, n, left + pass, right + pass, to + pass, nmerge - pass);
                struct sq_ids ids = SQ_IDS_INIT;
                assert_int_equal(sq_tok_encode(&ids, tok, text, (size_t)n, 0), 0);
                const bool same = ids.n == want && memcmp(ids.v, id, (size_t)want * sizeof *id) == 0;
                if (pass == 0)
                    assert_true(same);
                else
                    differs_without_last += !same;
                sq_ids_release(&ids);
            }
        }
        sq_tok_free(&tok);
    }
    assert_true(differs_without_last > 100);
}

/* Any UTF-8 comes back byte for byte. */
static void test_round_trip(void **state)
{
    (void)state;
    struct sq_tok *tok;
    struct sq_rng rng = sq_rng_init(3, SQ_RNG_TEST, 1, 0, 0, 0);
    assert_int_equal(tok_load(&tok, tok_model(english, ENGLISH, false), NULL), 0);
    for (int round = 0; round < 300; round++) {
        char text[256], *back;
        size_t n = 0, len;
        while (n < 200) {
            const uint32_t c = (uint32_t)(sq_rng_below(&rng, 3) == 0 ? sq_rng_below(&rng, 0x110000) : sq_rng_below(&rng, 0x250));
            if (c >= 0xd800 && c < 0xe000)
                continue;
            if (c < 0x80) {
                text[n++] = (char)c;
            } else if (c < 0x800) {
                text[n++] = (char)(0xc0 | c >> 6);
                text[n++] = (char)(0x80 | (c & 63));
            } else {
                if (c >= 0x10000) {
                    text[n++] = (char)(0xf0 | c >> 18);
                    text[n++] = (char)(0x80 | (c >> 12 & 63));
                } else {
                    text[n++] = (char)(0xe0 | c >> 12);
                }
                text[n++] = (char)(0x80 | (c >> 6 & 63));
                text[n++] = (char)(0x80 | (c & 63));
            }
        }
        struct sq_ids ids = SQ_IDS_INIT;
        assert_int_equal(sq_tok_encode(&ids, tok, text, n, 0), 0);
        assert_int_equal(sq_tok_decode(&back, &len, tok, ids.v, ids.n, false), 0);
        assert_int_equal(len, n);
        assert_memory_equal(back, text, n);
        sq_free(back);
        sq_ids_release(&ids);
    }
    sq_tok_free(&tok);
}

static void test_bad_text(void **state)
{
    (void)state;
    static const char *const bad[] = {"a\x80", "a\xc3", "a\xc0\x80", "a\xe0\x80\x80", "a\xed\xa0\x80", "a\xf0\x80\x80\x80",
                                      "a\xf4\x90\x80\x80", "a\xf5\x80\x80\x80", "a\xff", "a\xe2\x82", "a\xc3\x28"};
    struct sq_tok *tok;
    struct sq_ids ids = SQ_IDS_INIT;
    assert_int_equal(tok_load(&tok, tok_model(english, ENGLISH, false), NULL), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(sq_tok_encode(&ids, tok, bad[i], strlen(bad[i]), 0), SQ_E_VALUE);
        assert_non_null(strstr(sq_errmsg(), "not UTF-8"));
        assert_non_null(strstr(sq_errmsg(), "at 1"));
    }
    assert_int_equal(sq_tok_encode(&ids, tok, "a\0b", 3, 0), 0);
    assert_int_equal(ids.n, 3);
    assert_int_equal(ids.v[1], 0);
    sq_ids_release(&ids);
    sq_tok_free(&tok);
}

/* Each line changes one thing in a good file; the reader must refuse it and say why. */
static void test_bad_json(void **state)
{
    (void)state;
    const struct {
        const char *at, *value; /* a path of keys and the JSON that replaces it there */
        int code;
        const char *says;
    } cases[] = {
        {"model", "3", SQ_E_FORMAT, "'model'"},
        {"model.type", "\"Unigram\"", SQ_E_UNSUP, "'Unigram'"},
        {"model.dropout", "0.1", SQ_E_UNSUP, "dropout"},
        {"model.continuing_subword_prefix", "\"##\"", SQ_E_UNSUP, "continuing_subword_prefix"},
        {"model.end_of_word_suffix", "\"</w>\"", SQ_E_UNSUP, "end_of_word_suffix"},
        {"model.vocab", "[]", SQ_E_FORMAT, "'vocab'"},
        {"model.vocab.hello", "-1", SQ_E_FORMAT, "'hello'"},
        {"model.vocab.hello", "1e3", SQ_E_FORMAT, "'hello'"},
        {"model.vocab.hello", "4194304", SQ_E_FORMAT, "'hello'"},
        {"model.vocab.hello", "17", SQ_E_FORMAT, "another token"},
        {"model.merges", "null", SQ_E_FORMAT, "'merges'"},
        {"model.merges", "[\"h\"]", SQ_E_FORMAT, "merge 0"},
        {"model.merges", "[\"h e l\"]", SQ_E_FORMAT, "merge 0"},
        {"model.merges", "[[\"h\"]]", SQ_E_FORMAT, "merge"},
        {"model.merges", "[[\"h\", 1]]", SQ_E_FORMAT, "not a string"},
        {"model.merges", "[\"h e\", \"q q\"]", SQ_E_FORMAT, "merge 1 makes 'qq'"},
        {"model.merges", "[\"qq h\"]", SQ_E_FORMAT, "merge 0 names 'qq'"},
        {"model.unk_token", "\"<unk>\"", SQ_E_FORMAT, "'<unk>'"},
        {"model.byte_fallback", "1", SQ_E_FORMAT, "'byte_fallback'"},
        {"added_tokens", "{}", SQ_E_FORMAT, "'added_tokens'"},
        {"added_tokens", "[{\"id\": 300}]", SQ_E_FORMAT, "content"},
        {"added_tokens", "[{\"id\": 9999999, \"content\": \"x\"}]", SQ_E_FORMAT, "'id'"},
        {"added_tokens", "[{\"id\": 5, \"content\": \"<x>\"}]", SQ_E_FORMAT, "another token"},
        {"added_tokens", "[{\"id\": 5, \"content\": \"hello\"}]", SQ_E_FORMAT, "259"},
        {"added_tokens", "[{\"id\": 300, \"content\": \"x y\", \"single_word\": true}]", SQ_E_UNSUP, "single_word"},
        {"normalizer", "{\"type\": \"NFKC\"}", SQ_E_UNSUP, "'NFKC'"},
        {"normalizer", "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \" +\"}, \"content\": \"\"}", SQ_E_UNSUP, "pattern"},
        {"normalizer", "{\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, \"content\": \"\"}", SQ_E_FORMAT, "empty"},
        {"normalizer", "[]", SQ_E_FORMAT, "'type'"},
        {"pre_tokenizer", "{\"type\": \"BertPreTokenizer\"}", SQ_E_UNSUP, "'BertPreTokenizer'"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"(\"}}", SQ_E_FORMAT, "'('"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"\\\\h\"}}", SQ_E_UNSUP, "escape"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"a{2}+\"}}", SQ_E_UNSUP, "possessive"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"[a&&b]\"}}", SQ_E_UNSUP, "set"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"(?m).\"}}", SQ_E_UNSUP, "group"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"(*UCP)a\"}}", SQ_E_UNSUP, "group"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"\"}}", SQ_E_FORMAT, "0 bytes"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Odd\", \"pattern\": {\"String\": \"a\"}}", SQ_E_UNSUP, "'Odd'"},
        {"pre_tokenizer", "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\"}, {\"type\": \"Digits\"}]}", SQ_E_UNSUP,
         "after ByteLevel"},
        {"post_processor", "{\"type\": \"BertProcessing\"}", SQ_E_UNSUP, "'BertProcessing'"},
        {"post_processor", "{\"type\": \"TemplateProcessing\", \"single\": [], \"special_tokens\": {}}", SQ_E_FORMAT, "no place"},
        {"post_processor", "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"s\"}}], "
         "\"special_tokens\": {\"s\": {\"ids\": [99999]}}}", SQ_E_FORMAT, "99999"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *root = tok_model(english, ENGLISH, false), *at = root;
        char path[64], *key = path;
        snprintf(path, sizeof path, "%s", cases[i].at);
        for (char *dot; (dot = strchr(key, '.')); key = dot + 1) {
            *dot = 0;
            at = json_object_get(at, key);
        }
        json_object_set_new(at, key, json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        struct sq_tok *tok = (void *)1;
        const int rc = tok_load(&tok, root, NULL);
        if (rc != cases[i].code || !strstr(sq_errmsg(), cases[i].says) || !strstr(sq_errmsg(), "tokenizer.json") || tok)
            fail_msg("%s = %s: %d '%s', wanted %d '%s'", cases[i].at, cases[i].value, rc, sq_errmsg(), cases[i].code,
                     cases[i].says);
    }
    struct sq_tok *tok;
    assert_int_equal(sq_tok_from_json(&tok, "{\"a\": 1", 7, NULL, 0), SQ_E_FORMAT);
    assert_int_equal(sq_tok_from_json(&tok, "", 0, NULL, 0), SQ_E_FORMAT);
    assert_int_equal(tok_load(&tok, tok_model(english, ENGLISH, false), "{"), SQ_E_FORMAT);
    assert_non_null(strstr(sq_errmsg(), "tokenizer_config.json"));
}

/* A word of many equal letters, many words, many spaces: no quadratic time. */
static void test_long_words(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    struct sq_tok *tok;
    char *text = malloc(N);
    assert_non_null(text);
    static const char *const doubling[] = {"a a", "aa aa", "aaaa aaaa", "Ġ Ġ", "ĠĠ ĠĠ", "< <"};
    json_t *root = tok_model(doubling, 6, false);
    json_array_append_new(json_object_get(root, "added_tokens"), added(300, "<<<<<<<<<<<<<<<<x", true, true, true));
    assert_int_equal(tok_load(&tok, root, NULL), 0);
    static const char *const fill[] = {"a", " ", "\n", "<", "a ", "\xcc\x81"};
    for (size_t k = 0; k < sizeof fill / sizeof *fill; k++) {
        const size_t len = strlen(fill[k]);
        struct sq_ids ids = SQ_IDS_INIT;
        for (size_t i = 0; i < N; i++)
            text[i] = fill[k][i % len];
        const double start = sq_now();
        assert_int_equal(sq_tok_encode(&ids, tok, text, N, 0), 0);
        assert_true(sq_now() - start < 60); /* quadratic would take hours, with a sanitizer or without */
        assert_true(ids.n >= N / 8);
        sq_ids_release(&ids);
    }
    free(text);
    sq_tok_free(&tok);
}

/* A pattern that backtracks for ever ends in an error, not in a hang. */
static void test_evil_pattern(void **state)
{
    (void)state;
    struct sq_tok *tok;
    struct sq_ids ids = SQ_IDS_INIT;
    char text[101];
    json_t *root = tok_model(english, ENGLISH, false);
    json_object_set_new(root, "pre_tokenizer", json_pack("{s:s, s:{s:s}, s:s}", "type", "Split", "pattern", "Regex", "(a+)+[bc]",
                                                         "behavior", "Isolated"));
    assert_int_equal(tok_load(&tok, root, NULL), 0);
    memset(text, 'a', 100);
    text[100] = 0;
    assert_int_equal(sq_tok_encode(&ids, tok, text, 100, 0), SQ_E_VALUE);
    assert_non_null(strstr(sq_errmsg(), "limit"));
    sq_ids_release(&ids);
    sq_tok_free(&tok);
}

static const char spm[] =
    "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 1, \"content\": \"<s>\", \"special\": true, \"normalized\": false}],"
    "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"\\u2581\"},"
    "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\\u2581\"}]}, \"pre_tokenizer\": null,"
    "\"post_processor\": null, \"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\", \"fuse_unk\": true, \"byte_fallback\": true,"
    "\"vocab\": {\"<unk>\": 0, \"<s>\": 1, \"<0xC3>\": 2, \"<0xA9>\": 3, \"\\u2581\": 4, \"a\": 5, \"\\u2581a\": 6, \"\\u0000\": 7},"
    "\"merges\": [\"\\u2581 a\"]}}";

static void test_byte_fallback(void **state)
{
    (void)state;
    struct sq_tok *tok;
    struct sq_ids ids = SQ_IDS_INIT;
    char *back;
    size_t n;
    assert_int_equal(sq_tok_from_json(&tok, spm, strlen(spm), NULL, 0), 0);
    expect_ids(tok, "a aa", 0, "▁a|▁a|a");
    expect_ids(tok, "a\xc3\xa9", 0, "▁a|<0xC3>|<0xA9>");
    expect_ids(tok, "zza", 0, "▁|<unk>|a"); /* fused */
    expect_ids(tok, "a<s>a", 0, "▁a|<s>|▁a");
    assert_int_equal(sq_tok_encode(&ids, tok, "\0a", 2, 0), 0); /* U+0000 is a key of this vocabulary */
    assert_int_equal(ids.n, 3);
    assert_int_equal(ids.v[1], 7);
    assert_int_equal(sq_tok_decode(&back, &n, tok, (int32_t[]){1, 6, 6, 2, 3}, 5, true), 0);
    assert_string_equal(back, "a a\xc3\xa9");
    sq_free(back);
    sq_ids_release(&ids);
    sq_tok_free(&tok);
    char *odd = strdup(spm);
    memcpy(strstr(odd, "\\u2581a"), "\\uFDD0", 6);
    assert_int_equal(sq_tok_from_json(&tok, odd, strlen(odd), NULL, 0), SQ_E_UNSUP);
    free(odd);
}

static void test_keys(void **state)
{
    (void)state;
    struct sq_tok_keys k = SQ_TOK_KEYS_INIT;
    struct sq_tok *tok;
    struct sq_tok_str token[260], merge[2] = {{"h e", 3}, {"he y", 4}};
    char letters[256][3];
    int32_t type[260];
    for (int b = 0; b < 256; b++) {
        tok_letter(letters[b], b);
        token[b] = (struct sq_tok_str){letters[b], strlen(letters[b])};
        type[b] = 1;
    }
    token[256] = (struct sq_tok_str){"he", 2};
    token[257] = (struct sq_tok_str){"hey", 3};
    token[258] = (struct sq_tok_str){"<s>", 3};
    token[259] = (struct sq_tok_str){"", 0};
    type[256] = type[257] = 1;
    type[258] = 3;
    type[259] = 5;
    k.token = token;
    k.type = type;
    k.merge = merge;
    k.ntoken = 260;
    k.nmerge = 2;
    assert_int_equal(sq_tok_from_keys(&tok, &k), SQ_E_FORMAT);
    k.model = "gpt2";
    k.pre = "llama-bpe";
    assert_int_equal(sq_tok_from_keys(&tok, &k), SQ_E_FORMAT); /* Llama adds a bos that is not named */
    k.bos = 258;
    assert_int_equal(sq_tok_from_keys(&tok, &k), 0);
    expect_ids(tok, "hey<s>1234", 0, "<s>|hey|<s>|1|2|3|4");
    sq_tok_free(&tok);
    k.add_bos = 0;
    assert_int_equal(sq_tok_from_keys(&tok, &k), 0);
    assert_int_equal(sq_tok_bos(tok), -1);
    sq_tok_free(&tok);
    k.bos = 259; /* no such token */
    assert_int_equal(sq_tok_from_keys(&tok, &k), SQ_E_FORMAT);
    k.bos = -1;
    static const char *const unknown[] = {"", " ", "llama", "bpe", "llama-bpe gpt-2", "a name that is longer than all of them together, and more"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        k.pre = unknown[i];
        assert_int_equal(sq_tok_from_keys(&tok, &k), SQ_E_UNSUP);
        assert_non_null(strstr(sq_errmsg(), "tokenizer.ggml.pre"));
    }
    k.pre = NULL;
    k.model = "bert";
    assert_int_equal(sq_tok_from_keys(&tok, &k), SQ_E_UNSUP);
    k.model = "llama"; /* needs scores */
    assert_int_equal(sq_tok_from_keys(&tok, &k), SQ_E_FORMAT);
    k.model = "gpt2";
    merge[1] = (struct sq_tok_str){"he z", 4};
    assert_int_equal(sq_tok_from_keys(&tok, &k), SQ_E_FORMAT);
    merge[1] = (struct sq_tok_str){"hey", 3};
    assert_int_equal(sq_tok_from_keys(&tok, &k), SQ_E_FORMAT);
    k.nmerge = 1;
    token[259] = (struct sq_tok_str){"\xff", 1};
    assert_int_equal(sq_tok_from_keys(&tok, &k), SQ_E_FORMAT);
    token[259] = token[256];
    assert_int_equal(sq_tok_from_keys(&tok, &k), SQ_E_FORMAT);
    k.ntoken = 0;
    assert_int_equal(sq_tok_from_keys(&tok, &k), SQ_E_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges),        cmocka_unit_test(test_ignore_merges), cmocka_unit_test(test_added),
        cmocka_unit_test(test_config_rule),   cmocka_unit_test(test_behaviors),     cmocka_unit_test(test_normalizers),
        cmocka_unit_test(test_against_naive), cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_bad_text),
        cmocka_unit_test(test_bad_json),      cmocka_unit_test(test_long_words),    cmocka_unit_test(test_evil_pattern),
        cmocka_unit_test(test_byte_fallback), cmocka_unit_test(test_keys),
    };
    return cmocka_run_group_tests_name("tok", tests, NULL, NULL);
}
