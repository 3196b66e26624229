/* sq/calib.h - texts from files, and samples of token ids drawn from them: for calibration, and the windows of a perplexity */
#ifndef SQ_CALIB_H
#define SQ_CALIB_H

#include <jansson.h>

#include "sq/base.h"
#include "sq/tok.h"

SQ_BEGIN_DECLS

/* Texts, joined by a blank line ("\n\n", docs/method.md 10). Start from SQ_TEXT_INIT. */
struct sq_text {
    char *p;
    size_t n, cap;
    int64_t parts;
};
#define SQ_TEXT_INIT {NULL, 0, 0, 0}
/* Append a file (a pipe will do): plain text, or JSON lines when the name ends in .jsonl or .ndjson or the first line is a JSON
 * object with a string "text"; of each line that string. Empty lines between JSON lines are skipped; bytes are kept
 * as they are. Not UTF-8, a line without "text", an empty file, more than SQ_TEXT_MAX bytes in all: an error that names file
 * and line or position. */
int sq_text_read(struct sq_text *t, const char *path) SQ_MUSTUSE;
void sq_text_release(struct sq_text *t);

/* Append the ids of a file: whole numbers between white space, commas or brackets. */
int sq_ids_read(struct sq_ids *ids, const char *path) SQ_MUSTUSE;
/* Every id in [0, vocab), else SQ_E_VALUE with id and position. */
int sq_ids_check(const struct sq_ids *ids, int64_t vocab) SQ_MUSTUSE;

/* How samples are drawn. */
struct sq_draw {
    int64_t samples; /* to learn from, >= 1 */
    int64_t heldout; /* drawn in addition; -1: a sixteenth of samples, rounded up */
    int64_t length;  /* tokens of each, >= 1 */
    uint64_t seed;
};
struct sq_samples {
    int32_t *id;     /* [samples, length]; the last heldout samples are the held-out ones */
    int64_t samples; /* with the held-out ones */
    int64_t heldout, length;
};
#define SQ_SAMPLES_INIT {NULL, 0, 0, 0}
/* Samples at random starts. Held-out samples come from the end of the ids, which no other sample touches: their share
 * of the ids, at least one length. Too few ids: SQ_E_ARG with both lengths. */
int sq_samples_draw(struct sq_samples *out, const struct sq_ids *ids, const struct sq_draw *how) SQ_MUSTUSE;
void sq_samples_release(struct sq_samples *s);
/* The header of their record in a stream, with the digest of all the ids that they were drawn from; bos as sq_tok_bos. */
int sq_samples_head(json_t **out, const struct sq_samples *s, const struct sq_ids *from, int32_t bos, uint64_t seed) SQ_MUSTUSE;

/* The whole windows of length tokens in ids, at most max (0: all); the last partial one is dropped. None:
 * SQ_E_ARG with both lengths. */
int sq_windows_count(int64_t *out, const struct sq_ids *ids, int64_t length, int64_t max) SQ_MUSTUSE;

SQ_END_DECLS
#endif
