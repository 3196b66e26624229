/* libsq/tok/parts.h - what the sources of the tokenizer share */
#ifndef SQ_TOK_PARTS_H
#define SQ_TOK_PARTS_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdatomic.h>

#include "sq/tok.h"

/* ---- bytes that grow ---- */
struct sq_bytes {
    char *p;
    size_t n, cap;
};
int sq_bytes_add(struct sq_bytes *b, const void *p, size_t n) SQ_MUSTUSE;

/* ---- UTF-8 ---- */
enum { SQ_CHAR_MAX = 4 };
/* Position of the first byte that is not UTF-8 (no surrogates, no overlong forms), or n. */
size_t sq_utf8_check(const char *s, size_t n);
/* Length of the character at s; s is valid. */
size_t sq_utf8_len(const char *s);
/* Code point at s; s is valid. */
uint32_t sq_utf8_get(const char *s);
size_t sq_utf8_put(char s[SQ_CHAR_MAX], uint32_t c);
/* the property White_Space */
bool sq_space(uint32_t c);

/* ---- numbers to numbers: merges, and the edges of the trie of added tokens ---- */
struct sq_map {
    struct {
        uint64_t key, value;
    } *slot;
    uint64_t mask;
    int64_t n;
};
enum { SQ_MAP_SHIFT = 32 };
#define SQ_MAP_NONE UINT64_MAX
int sq_map_init(struct sq_map *m, int64_t n) SQ_MUSTUSE; /* for at most n keys */
void sq_map_release(struct sq_map *m);
void sq_map_put(struct sq_map *m, uint64_t key, uint64_t value); /* the last value of a key stays */
uint64_t sq_map_get(const struct sq_map *m, uint64_t key);       /* SQ_MAP_NONE: absent */

/* ---- the vocabulary: spelling <-> id ---- */
struct sq_vocab {
    char *bytes;
    size_t nbytes, room;
    struct sq_piece {
        uint32_t off, len;
        uint8_t present, special, added;
    } *piece;         /* [size] */
    int64_t size;
    int32_t *slot;    /* hash of a spelling -> id + 1 */
    uint64_t mask;
};
int sq_vocab_init(struct sq_vocab *v, int64_t size, int64_t count, size_t bytes) SQ_MUSTUSE;
void sq_vocab_release(struct sq_vocab *v);
int sq_vocab_put(struct sq_vocab *v, int64_t id, const char *s, size_t n) SQ_MUSTUSE;
int32_t sq_vocab_get(const struct sq_vocab *v, const char *s, size_t n);

/* ---- added tokens: leftmost, then longest ---- */
struct sq_added {
    int32_t id;
    bool lstrip, rstrip, normalized;
};
struct sq_trie {
    struct sq_map edge;  /* node << 8 | byte -> node */
    int32_t *leaf;       /* [nodes] index into added, -1 */
    int32_t nodes, cap;
    bool first[256];
};
int sq_trie_init(struct sq_trie *t, int64_t bytes) SQ_MUSTUSE; /* bytes: of all spellings together */
void sq_trie_release(struct sq_trie *t);
void sq_trie_put(struct sq_trie *t, const char *s, size_t n, int32_t leaf);
/* The first match at or after from: its leaf, [*start, *end); -1: none. */
int32_t sq_trie_find(const struct sq_trie *t, const char *s, size_t n, size_t from, size_t *start, size_t *end);

/* ---- normalizer and pre-tokenizer: short lists of steps ---- */
enum { SQ_STEPS_MAX = 16 };

struct sq_norm {
    enum { SQ_NORM_NFC, SQ_NORM_PREPEND, SQ_NORM_REPLACE } kind;
    struct sq_tok_str from, to; /* owned */
};
/* out = the normalized text (appended to an empty out). */
int sq_normalize(struct sq_bytes *out, const struct sq_tok *tok, const char *s, size_t n) SQ_MUSTUSE;

enum sq_behavior { SQ_ISOLATED, SQ_REMOVED, SQ_CONTIGUOUS, SQ_WITH_PREVIOUS, SQ_WITH_NEXT };
struct sq_pre {
    enum { SQ_PRE_SPLIT, SQ_PRE_SPACE, SQ_PRE_META } kind;
    pcre2_code *re;
    enum sq_behavior behavior;
    bool invert;
    enum { SQ_META_NEVER, SQ_META_FIRST, SQ_META_ALWAYS } scheme;
    struct sq_tok_str meta; /* owned: what stands for a space */
};
/* Compile a pattern written for Oniguruma; behaviours that PCRE2 would not share are refused. */
int sq_pre_split(struct sq_tok *tok, const char *pattern, size_t n, enum sq_behavior behavior, bool invert) SQ_MUSTUSE;
int sq_pre_split_text(struct sq_tok *tok, const char *text, size_t n, enum sq_behavior behavior, bool invert) SQ_MUSTUSE;
extern const char sq_pattern_gpt2[];

/* ---- the tokenizer ---- */
struct sq_tok {
    struct sq_vocab vocab;
    struct sq_map merge;      /* left id << 32 | right id -> rank << 32 | id */
    struct sq_map join;       /* characters: last of a left part << 32 | first of its right part, for every merge */
    bool byte_level;          /* symbols are bytes in the GPT-2 alphabet; else characters */
    bool byte_fallback, fuse_unk, ignore_merges;
    int32_t byte_id[256];     /* byte level: of the byte's letter; else of <0xXX>; -1: none */
    int32_t ascii_id[128];    /* characters: of each ASCII character; -1: none */
    int32_t unk;              /* -1: none */
    struct sq_norm norm[SQ_STEPS_MAX];
    int nnorm;
    struct sq_pre pre[SQ_STEPS_MAX];
    int npre;
    struct sq_added *added;
    int64_t nadded;
    struct sq_trie raw, normal;
    struct sq_ids prefix, suffix;
    int32_t eos;
    struct sq_tok_str space;  /* owned: what decode turns into a space; empty: nothing */
    bool strip_space;         /* decode takes one space off the front */
    atomic_llong dropped;
};
int sq_tok_new(struct sq_tok **out) SQ_MUSTUSE;
/* Copy s to the heap. */
int sq_tok_dup(struct sq_tok_str *out, const char *s, size_t n) SQ_MUSTUSE;
/* After vocabulary, normalizer and pre-tokenizer are known: byte tables and tries. */
int sq_tok_seal(struct sq_tok *tok) SQ_MUSTUSE;
/* rank of merge left + right; the three spellings must be in the vocabulary. */
int sq_tok_merge(struct sq_tok *tok, int64_t rank, struct sq_tok_str left, struct sq_tok_str right) SQ_MUSTUSE;
/* The letter that GPT-2's alphabet writes for a byte, and back (-1: not in the alphabet). */
uint32_t sq_byte_letter(uint8_t b);
int sq_letter_byte(uint32_t c);

/* ---- one word ---- */
struct sq_bpe {
    const struct sq_tok *tok;
    int32_t *id, *prev, *next; /* [cap] */
    uint64_t *heap;            /* [3 * cap] */
    int64_t cap, nheap;
    struct sq_cached *cache;
    uint64_t cache_mask;
    struct sq_bytes letters;
    int64_t dropped;
};
int sq_bpe_init(struct sq_bpe *b, const struct sq_tok *tok, size_t text) SQ_MUSTUSE;
void sq_bpe_release(struct sq_bpe *b);
int sq_bpe_word(struct sq_ids *out, struct sq_bpe *b, const char *s, size_t n) SQ_MUSTUSE;

/* ---- pieces to words ---- */
struct sq_cutter {
    const struct sq_tok *tok;
    struct sq_bpe *bpe;
    struct sq_ids *out;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack;
    struct sq_bytes scratch[SQ_STEPS_MAX];
};
int sq_cutter_init(struct sq_cutter *c, struct sq_ids *out, struct sq_bpe *bpe) SQ_MUSTUSE;
void sq_cutter_release(struct sq_cutter *c);
/* Cut a piece of normalized text into words and append their ids; first: it stands at the start of the whole text. */
int sq_cutter_piece(struct sq_cutter *c, const char *s, size_t n, bool first) SQ_MUSTUSE;

#endif
