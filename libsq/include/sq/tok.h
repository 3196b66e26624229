/* sq/tok.h - text to token ids and back: byte-level BPE, and the byte-fallback BPE of Llama 2 vocabularies
 *
 * A tokenizer is built from bytes or arrays that somebody else read, and is constant afterwards: any number of threads may
 * encode and decode with it. Ids equal those of Hugging Face tokenizers for tokenizer.json, and for GGUF keys those of the
 * tokenizer that the file was converted from. */
#ifndef SQ_TOK_H
#define SQ_TOK_H

#include "sq/base.h"

SQ_BEGIN_DECLS

struct sq_tok;

enum { SQ_TEXT_MAX = 256 << 20, SQ_VOCAB_MAX = 1 << 22 }; /* bytes of one text; ids of one vocabulary */

/* ids that grow; start from SQ_IDS_INIT, free with sq_ids_release */
struct sq_ids {
    int32_t *v;
    int64_t n, cap;
};
#define SQ_IDS_INIT {NULL, 0, 0}
int sq_ids_push(struct sq_ids *ids, int32_t id) SQ_MUSTUSE;
void sq_ids_release(struct sq_ids *ids);

struct sq_tok_str {
    const char *p;
    size_t n;
};

/* What a GGUF file says under tokenizer.ggml.*; everything is borrowed during the call. */
struct sq_tok_keys {
    const char *model;               /* "gpt2" or "llama"; others are refused by name */
    const char *pre;                 /* "llama-bpe", "qwen2", ...; NULL: "default" */
    const struct sq_tok_str *token;  /* [ntoken], in the order of the ids */
    const int32_t *type;             /* [ntoken], 1 normal 2 unknown 3 control 4 user 5 unused 6 byte; NULL: all normal */
    const float *score;              /* [ntoken]; only model "llama" reads it */
    const struct sq_tok_str *merge;  /* [nmerge], "left right" */
    int64_t ntoken, nmerge;
    int64_t bos, eos, unk;           /* ids, -1: not given */
    int add_bos, add_eos, add_space; /* 0 or 1, -1: not given */
};
#define SQ_TOK_KEYS_INIT {NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, -1, -1, -1, -1, -1, -1}

/* From tokenizer.json and (or NULL) tokenizer_config.json. The post-processor is the rule for BOS and EOS; only where it
 * adds nothing, add_bos_token and add_eos_token of the config do. Model kinds, normalizers and pre-tokenizers that
 * would not give the reference's ids are refused by name. SQ_E_FORMAT, SQ_E_UNSUP, SQ_E_NOMEM. */
int sq_tok_from_json(struct sq_tok **out, const char *json, size_t n, const char *config, size_t config_n) SQ_MUSTUSE;
int sq_tok_from_keys(struct sq_tok **out, const struct sq_tok_keys *keys) SQ_MUSTUSE;
/* From a JSON object of GGUF keys with their full names ("tokenizer.ggml.model": ...). */
int sq_tok_from_gguf_json(struct sq_tok **out, const char *json, size_t n) SQ_MUSTUSE;
void sq_tok_free(struct sq_tok **tok);

/* The side files of a model that a tokenizer is made of, as they come along in a stream or lie in a directory. */
struct sq_tok_files {
    char *json, *config, *gguf; /* tokenizer.json, tokenizer_config.json, tokenizer.gguf.json */
    size_t njson, nconfig, ngguf;
};
#define SQ_TOK_FILES_INIT {NULL, NULL, NULL, 0, 0, 0}
/* 1 and room for n bytes that the caller fills, when a tokenizer needs the file of this name; 0 otherwise. */
int sq_tok_files_room(struct sq_tok_files *f, const char *name, int64_t n, void **room) SQ_MUSTUSE;
/* tokenizer.json before tokenizer.gguf.json; neither: SQ_E_ARG. */
int sq_tok_from_files(struct sq_tok **out, const struct sq_tok_files *f) SQ_MUSTUSE;
void sq_tok_files_release(struct sq_tok_files *f);

enum sq_tok_flag {
    SQ_TOK_RULE = 0, /* with the tokenizer's own BOS and EOS */
    SQ_TOK_BARE = 1, /* the text alone */
};

/* Append the ids of n bytes of text to out. Added tokens in the text become their ids. The text must be UTF-8: a bad
 * byte is SQ_E_VALUE with its position, never a replacement character. Linear in n but for one long word, n log n.
 * SQ_E_ARG for more than SQ_TEXT_MAX bytes. */
int sq_tok_encode(struct sq_ids *out, const struct sq_tok *tok, const char *text, size_t n, int flags) SQ_MUSTUSE;
/* The bytes of n ids, NUL-terminated, *len without the NUL; free with sq_free. Special tokens (control tokens) give
 * nothing with skip_special. An id outside of the vocabulary is SQ_E_VALUE. The bytes may cut a UTF-8 character. */
int sq_tok_decode(char **out, size_t *len, const struct sq_tok *tok, const int32_t *ids, int64_t n, bool skip_special) SQ_MUSTUSE;

int64_t sq_tok_size(const struct sq_tok *tok); /* one past the largest id */
int32_t sq_tok_bos(const struct sq_tok *tok);  /* the first id that SQ_TOK_RULE puts in front, -1 for none */
int32_t sq_tok_eos(const struct sq_tok *tok);  /* the id that ends a text, added or not; -1 if unknown */
int32_t sq_tok_id(const struct sq_tok *tok, const char *token, size_t n); /* of a token as the vocabulary spells it, or -1 */
struct sq_tok_str sq_tok_spelling(const struct sq_tok *tok, int32_t id);  /* borrowed; {NULL, 0} for no such id */
/* Characters that the vocabulary cannot spell and that the reference drops without a trace, in encode calls so far. */
int64_t sq_tok_dropped(const struct sq_tok *tok);

SQ_END_DECLS
#endif
