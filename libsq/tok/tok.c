#include <stdio.h>
#include <string.h>

#include "parts.h"

int sq_ids_push(struct sq_ids *ids, int32_t id)
{
    if (ids->n == ids->cap) {
        int32_t *larger;
        const int64_t cap = SQ_MAX(2 * ids->cap, 64);
        const int rc = sq_alloc(&larger, cap);
        if (rc < 0)
            return rc;
        if (ids->n)
            memcpy(larger, ids->v, (size_t)ids->n * sizeof(*ids->v));
        sq_free(ids->v);
        ids->v = larger;
        ids->cap = cap;
    }
    ids->v[ids->n++] = id;
    return 0;
}

void sq_ids_release(struct sq_ids *ids)
{
    sq_free(ids->v);
    *ids = (struct sq_ids)SQ_IDS_INIT;
}

int sq_tok_new(struct sq_tok **out)
{
    const int rc = sq_alloc(out, 1);
    if (rc < 0)
        return rc;
    (*out)->unk = (*out)->eos = -1;
    return 0;
}

static void drop(struct sq_tok_str *s)
{
    sq_free((void *)(uintptr_t)s->p);
    s->p = NULL;
}

void sq_tok_free(struct sq_tok **tok)
{
    struct sq_tok *t = *tok;
    if (!t)
        return;
    for (int i = 0; i < t->nnorm; i++) {
        drop(&t->norm[i].from);
        drop(&t->norm[i].to);
    }
    for (int i = 0; i < t->npre; i++) {
        pcre2_code_free(t->pre[i].re);
        drop(&t->pre[i].meta);
    }
    drop(&t->space);
    sq_trie_release(&t->raw);
    sq_trie_release(&t->normal);
    sq_free(t->added);
    sq_ids_release(&t->prefix);
    sq_ids_release(&t->suffix);
    sq_map_release(&t->merge);
    sq_map_release(&t->join);
    sq_vocab_release(&t->vocab);
    sq_free(t);
    *tok = NULL;
}

int sq_tok_dup(struct sq_tok_str *out, const char *s, size_t n)
{
    char *p;
    const int rc = sq_alloc(&p, (int64_t)n + 1);
    if (rc < 0)
        return rc;
    memcpy(p, s, n);
    *out = (struct sq_tok_str){p, n};
    return 0;
}

int sq_tok_merge(struct sq_tok *tok, int64_t rank, struct sq_tok_str left, struct sq_tok_str right)
{
    char stack[256], *both = stack;
    int rc = 0;
    const size_t n = left.n + right.n;
    const int32_t a = sq_vocab_get(&tok->vocab, left.p, left.n), b = sq_vocab_get(&tok->vocab, right.p, right.n);

    if (a < 0 || b < 0)
        return sq_fail(SQ_E_FORMAT, "merge %" PRId64 " names '%.*s', which is not in the vocabulary", rank,
                       (int)SQ_MIN((a < 0 ? left : right).n, (size_t)64), (a < 0 ? left : right).p);
    if (n > sizeof(stack))
        SQ_TRY(sq_alloc(&both, (int64_t)n));
    memcpy(both, left.p, left.n);
    memcpy(both + left.n, right.p, right.n);
    const int32_t id = sq_vocab_get(&tok->vocab, both, n);
    if (id < 0)
        rc = sq_fail(SQ_E_FORMAT, "merge %" PRId64 " makes '%.*s', which is not in the vocabulary", rank,
                     (int)SQ_MIN(n, (size_t)64), both);
    else
        sq_map_put(&tok->merge, (uint64_t)(uint32_t)a << SQ_MAP_SHIFT | (uint32_t)b,
                   (uint64_t)rank << SQ_MAP_SHIFT | (uint32_t)id);
out:
    if (both != stack)
        sq_free(both);
    return rc;
}

static void byte_table(struct sq_tok *tok)
{
    for (int b = 0; b < 256; b++) {
        char s[8];
        const size_t n = tok->byte_level ? sq_utf8_put(s, sq_byte_letter((uint8_t)b))
                                         : (size_t)snprintf(s, sizeof(s), "<0x%02X>", (unsigned)b);
        tok->byte_id[b] = tok->byte_level || tok->byte_fallback ? sq_vocab_get(&tok->vocab, s, n) : -1;
    }
    for (int c = 0; c < 128; c++)
        tok->ascii_id[c] = sq_vocab_get(&tok->vocab, &(const char){(char)c}, 1);
}

/* An added token that is matched in normalized text is itself normalized: with Llama's prefix, "<s>" is sought as "▁<s>". */
static int fill_tries(struct sq_tok *tok)
{
    struct sq_bytes form = {NULL, 0, 0};
    int64_t raw = 0, normal = 0;
    int rc = 0;

    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1) {
            SQ_TRY(sq_trie_init(&tok->raw, raw));
            SQ_TRY(sq_trie_init(&tok->normal, normal));
        }
        for (int64_t i = 0; i < tok->nadded; i++) {
            struct sq_tok_str s = sq_tok_spelling(tok, tok->added[i].id);
            if (tok->added[i].normalized && tok->nnorm) {
                form.n = 0;
                SQ_TRY(sq_normalize(&form, tok, s.p, s.n));
                s = (struct sq_tok_str){form.p, form.n};
            }
            if (pass == 0)
                *(tok->added[i].normalized ? &normal : &raw) += (int64_t)s.n;
            else
                sq_trie_put(tok->added[i].normalized ? &tok->normal : &tok->raw, s.p, s.n, (int32_t)i);
        }
    }
out:
    sq_free(form.p);
    return rc;
}

static uint32_t last_char(struct sq_tok_str s)
{
    size_t at = s.n - 1;
    while (at > 0 && ((unsigned char)s.p[at] & 0xc0) == 0x80)
        at--;
    return sq_utf8_get(s.p + at);
}

/* Which neighbours a merge can ever join. A symbol that is no character (a byte, the unknown token) in a merge would make
 * that unsafe to tell from the text; then there is no table and words stay whole. */
static int fill_joins(struct sq_tok *tok)
{
    int rc = 0;
    if (tok->byte_level || tok->ignore_merges)
        return 0;
    SQ_TRY(sq_map_init(&tok->join, tok->merge.n));
    for (uint64_t i = 0; tok->merge.n > 0 && i <= tok->merge.mask; i++) {
        const uint64_t key = tok->merge.slot[i].key;
        if (key == SQ_MAP_NONE)
            continue;
        const int32_t part[2] = {(int32_t)(key >> SQ_MAP_SHIFT), (int32_t)(uint32_t)key};
        for (int k = 0; k < 2; k++) {
            bool odd = part[k] == tok->unk || sq_tok_spelling(tok, part[k]).n == 0;
            for (int b = 0; b < 256; b++)
                odd = odd || part[k] == tok->byte_id[b];
            if (odd) {
                sq_map_release(&tok->join);
                return 0;
            }
        }
        sq_map_put(&tok->join, (uint64_t)last_char(sq_tok_spelling(tok, part[0])) << SQ_MAP_SHIFT |
                                   sq_utf8_get(sq_tok_spelling(tok, part[1]).p), 0);
    }
out:
    return rc;
}

int sq_tok_seal(struct sq_tok *tok)
{
    byte_table(tok);
    if (tok->byte_level && tok->byte_fallback)
        for (int b = 0; b < 256; b++)
            if (tok->byte_id[b] < 0)
                return sq_fail(SQ_E_UNSUP, "byte_fallback with a byte-level vocabulary that lacks byte %d is not supported", b);
    const int rc = fill_joins(tok);
    return rc < 0 ? rc : fill_tries(tok);
}

/* ---- encode ---- */

struct encoder {
    const struct sq_tok *tok;
    struct sq_bpe bpe;
    struct sq_cutter cutter;
    struct sq_ids *out;
    struct sq_bytes norm;
};

static size_t space_before(const char *s, size_t at, size_t low)
{
    while (at > low) {
        size_t k = at - 1;
        while (((unsigned char)s[k] & 0xc0) == 0x80)
            k--;
        if (k < low || !sq_space(sq_utf8_get(s + k)))
            break;
        at = k;
    }
    return at;
}

static size_t space_after(const char *s, size_t at, size_t n)
{
    while (at < n && sq_space(sq_utf8_get(s + at)))
        at += sq_utf8_len(s + at);
    return at;
}

/* Cut text at the added tokens of a trie; what lies between goes to rest. first: the text starts the whole text. */
static int segments(struct encoder *e, const struct sq_trie *trie, const char *s, size_t n, bool first,
                    int (*rest)(struct encoder *, const char *, size_t, bool))
{
    size_t done = 0, from = 0, start = 0, end = 0;
    int rc = 0;
    for (;;) {
        const int32_t hit = sq_trie_find(trie, s, n, from, &start, &end);
        if (hit < 0)
            break;
        const struct sq_added *a = &e->tok->added[hit];
        from = end;
        start = SQ_MAX(start, done);
        if (a->lstrip)
            start = space_before(s, start, done);
        if (a->rstrip)
            end = space_after(s, end, n);
        if (start > done)
            SQ_TRY(rest(e, s + done, start - done, first && done == 0));
        SQ_TRY(sq_ids_push(e->out, a->id));
        done = SQ_MAX(end, done);
    }
    if (done < n)
        SQ_TRY(rest(e, s + done, n - done, first && done == 0));
out:
    return rc;
}

static int words(struct encoder *e, const char *s, size_t n, bool first)
{
    return sq_cutter_piece(&e->cutter, s, n, first);
}

static int normalized(struct encoder *e, const char *s, size_t n, bool first)
{
    if (e->tok->nnorm == 0)
        return segments(e, &e->tok->normal, s, n, first, words);
    e->norm.n = 0;
    const int rc = sq_normalize(&e->norm, e->tok, s, n);
    return rc < 0 ? rc : segments(e, &e->tok->normal, e->norm.p, e->norm.n, first, words);
}

int sq_tok_encode(struct sq_ids *out, const struct sq_tok *tok, const char *text, size_t n, int flags)
{
    struct encoder e = {.tok = tok, .out = out};
    int rc = 0;

    if (n > SQ_TEXT_MAX)
        return sq_fail(SQ_E_ARG, "a text of %zu bytes is longer than %d", n, SQ_TEXT_MAX);
    const size_t bad = sq_utf8_check(text, n);
    if (bad < n)
        return sq_fail(SQ_E_VALUE, "the text is not UTF-8: byte 0x%02x at %zu", (unsigned char)text[bad], bad);
    SQ_TRY(sq_bpe_init(&e.bpe, tok, n));
    SQ_TRY(sq_cutter_init(&e.cutter, out, &e.bpe));
    for (int64_t i = 0; !(flags & SQ_TOK_BARE) && i < tok->prefix.n; i++)
        SQ_TRY(sq_ids_push(out, tok->prefix.v[i]));
    SQ_TRY(segments(&e, &tok->raw, text, n, true, normalized));
    for (int64_t i = 0; !(flags & SQ_TOK_BARE) && i < tok->suffix.n; i++)
        SQ_TRY(sq_ids_push(out, tok->suffix.v[i]));
    atomic_fetch_add(&((struct sq_tok *)(uintptr_t)tok)->dropped, e.bpe.dropped);
out:
    sq_free(e.norm.p);
    sq_cutter_release(&e.cutter);
    sq_bpe_release(&e.bpe);
    return rc;
}

/* ---- decode ---- */

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* A token with a character outside of the alphabet stands for its own bytes, as in the reference. */
static int letters(struct sq_bytes *out, struct sq_tok_str s)
{
    int rc = 0;
    const size_t start = out->n;
    for (size_t i = 0; i < s.n; i += sq_utf8_len(s.p + i)) {
        const int b = sq_letter_byte(sq_utf8_get(s.p + i));
        if (b < 0) {
            out->n = start;
            return sq_bytes_add(out, s.p, s.n);
        }
        SQ_TRY(sq_bytes_add(out, &(const char){(char)b}, 1));
    }
out:
    return rc;
}

static int spelled(struct sq_bytes *out, const struct sq_tok *tok, struct sq_tok_str s)
{
    int rc = 0;
    if (tok->byte_fallback && s.n == 6 && memcmp(s.p, "<0x", 3) == 0 && s.p[5] == '>' && hex(s.p[3]) >= 0 && hex(s.p[4]) >= 0)
        return sq_bytes_add(out, &(const char){(char)(hex(s.p[3]) << 4 | hex(s.p[4]))}, 1);
    for (size_t i = 0; i < s.n;) {
        const bool space = tok->space.n && s.n - i >= tok->space.n && memcmp(s.p + i, tok->space.p, tok->space.n) == 0;
        SQ_TRY(sq_bytes_add(out, space ? " " : s.p + i, 1));
        i += space ? tok->space.n : 1;
    }
out:
    return rc;
}

int sq_tok_decode(char **out, size_t *len, const struct sq_tok *tok, const int32_t *ids, int64_t n, bool skip_special)
{
    struct sq_bytes b = {NULL, 0, 0};
    bool began = false;
    int rc = 0;

    *out = NULL;
    *len = 0;
    for (int64_t i = 0; i < n; i++) {
        const struct sq_tok_str s = sq_tok_spelling(tok, ids[i]);
        if (!s.p) {
            rc = sq_fail(SQ_E_VALUE, "id %d at %" PRId64 " is not in the vocabulary", ids[i], i);
            goto out;
        }
        const struct sq_piece *piece = &tok->vocab.piece[ids[i]];
        if (skip_special && piece->special)
            continue;
        const size_t start = b.n;
        if (piece->added)
            SQ_TRY(sq_bytes_add(&b, s.p, s.n));
        else
            SQ_TRY(tok->byte_level ? letters(&b, s) : spelled(&b, tok, s));
        if (!began && tok->strip_space && b.n > start && b.p[start] == ' ' && !piece->added) {
            memmove(b.p + start, b.p + start + 1, b.n - start - 1);
            b.n--;
        }
        began = began || !piece->special;
    }
    SQ_TRY(sq_bytes_add(&b, "", 1));
    *len = b.n - 1;
    *out = b.p;
    b.p = NULL;
out:
    sq_free(b.p);
    return rc;
}

/* ---- queries ---- */

int64_t sq_tok_size(const struct sq_tok *tok)
{
    return tok->vocab.size;
}

int32_t sq_tok_bos(const struct sq_tok *tok)
{
    return tok->prefix.n ? tok->prefix.v[0] : -1;
}

int32_t sq_tok_eos(const struct sq_tok *tok)
{
    return tok->eos;
}

int32_t sq_tok_id(const struct sq_tok *tok, const char *token, size_t n)
{
    return sq_vocab_get(&tok->vocab, token, n);
}

struct sq_tok_str sq_tok_spelling(const struct sq_tok *tok, int32_t id)
{
    if (id < 0 || id >= tok->vocab.size || !tok->vocab.piece[id].present)
        return (struct sq_tok_str){NULL, 0};
    return (struct sq_tok_str){tok->vocab.bytes + tok->vocab.piece[id].off, tok->vocab.piece[id].len};
}

int64_t sq_tok_dropped(const struct sq_tok *tok)
{
    return atomic_load(&tok->dropped);
}
