#include "sq/eval.h"

#include <string.h>

#include "sq/calib.h"

int sq_windows_cut(struct sq_windows *w, const struct sq_ids *ids, int64_t length, int64_t max)
{
    int64_t n = 0;
    int rc;
    *w = (struct sq_windows){0};
    if (length < 2)
        return sq_fail(SQ_E_ARG, "a window needs at least 2 tokens, not %" PRId64, length);
    SQ_TRY(sq_windows_count(&n, ids, length, max));
    SQ_TRY(sq_alloc(&w->ids, n * length));
    memcpy(w->ids, ids->v, (size_t)(n * length) * sizeof *ids->v);
    w->n = n;
    w->length = length;
out:
    return rc;
}

void sq_windows_release(struct sq_windows *w)
{
    sq_free(w->ids);
    *w = (struct sq_windows){0};
}

static int tokenizer(struct sq_tok **tok, const struct sq_source *src)
{
    struct sq_tok_files files = SQ_TOK_FILES_INIT;
    int rc;
    for (int64_t i = 0; i < sq_source_files(src); i++) {
        const struct sq_side *side = sq_source_file(src, i);
        void *room = NULL;
        SQ_TRY(sq_tok_files_room(&files, side->name, (int64_t)side->size, &room));
        if (rc > 0 && side->size)
            memcpy(room, side->data, side->size);
    }
    SQ_TRY(sq_tok_from_files(tok, &files));
out:
    sq_tok_files_release(&files);
    return rc;
}

int sq_ids_from_text(struct sq_ids *out, const struct sq_source *src, const char *path)
{
    struct sq_tok *tok = NULL;
    struct sq_text text = SQ_TEXT_INIT;
    int rc;
    SQ_TRY(tokenizer(&tok, src));
    SQ_TRY(sq_text_read(&text, path));
    SQ_TRY(sq_tok_encode(out, tok, text.p, text.n, SQ_TOK_RULE));
    if (sq_tok_dropped(tok))
        sq_log(SQ_WARNING, "%" PRId64 " characters of '%s' are not in the vocabulary and were dropped",
               sq_tok_dropped(tok), path);
out:
    sq_text_release(&text);
    sq_tok_free(&tok);
    return rc;
}
