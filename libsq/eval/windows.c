#include "sq/eval.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "sq/json.h"

int sq_windows_cut(struct sq_windows *w, const int32_t *ids, int64_t count, int64_t length, int64_t max)
{
    *w = (struct sq_windows){0};
    if (length < 2)
        return sq_fail(SQ_E_ARG, "a window needs at least 2 tokens, not %" PRId64, length);
    if (count < length)
        return sq_fail(SQ_E_ARG, "the text has %" PRId64 " tokens, less than one window of %" PRId64, count, length);
    int64_t n = count / length;
    if (max > 0)
        n = SQ_MIN(n, max);
    const int rc = sq_alloc(&w->ids, n * length);
    if (rc < 0)
        return rc;
    memcpy(w->ids, ids, (size_t)(n * length) * sizeof *ids);
    w->n = n;
    w->length = length;
    return 0;
}

void sq_windows_release(struct sq_windows *w)
{
    sq_free(w->ids);
    *w = (struct sq_windows){0};
}

static int from_json(struct sq_ids *out, const json_t *list, const char *path)
{
    int rc = 0;
    if (json_is_object(list))
        list = json_object_get(list, "ids");
    if (!json_is_array(list))
        return sq_fail(SQ_E_FORMAT, "'%s' is neither an array of token ids nor an object with \"ids\"", path);
    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        const json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id > INT32_MAX)
            return sq_fail(SQ_E_VALUE, "'%s': entry %zu is not a token id", path, i);
        rc = sq_ids_push(out, (int32_t)id);
    }
    return rc;
}

static int from_words(struct sq_ids *out, const char *text, size_t size, const char *path)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < size;) {
        if (isspace((unsigned char)text[i])) {
            i++;
            continue;
        }
        int64_t id = 0;
        const size_t start = i;
        for (; i < size && isdigit((unsigned char)text[i]) && id <= INT32_MAX; i++)
            id = 10 * id + (text[i] - '0');
        if (i == start || id > INT32_MAX || (i < size && !isspace((unsigned char)text[i])))
            return sq_fail(SQ_E_FORMAT, "'%s': no token id at byte %zu", path, start);
        rc = sq_ids_push(out, (int32_t)id);
    }
    return rc;
}

/* A whole file; *text is the caller's. */
static int read_all(char **text, size_t *size, const char *path)
{
    enum { LIMIT = 1 << 30 };
    struct stat st;
    int rc = 0;
    FILE *f = fopen(path, "rb");
    if (!f)
        return sq_fail(SQ_E_IO, "cannot read '%s': %s", path, strerror(errno));
    if (fstat(fileno(f), &st) < 0 || !S_ISREG(st.st_mode))
        SQ_TRY(sq_fail(SQ_E_IO, "'%s' is not a file", path));
    if (st.st_size > LIMIT)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "'%s' has more than %d bytes", path, LIMIT));
    SQ_TRY(sq_alloc(text, (int64_t)st.st_size + 1));
    *size = fread(*text, 1, (size_t)st.st_size, f);
    if (ferror(f))
        SQ_TRY(sq_fail(SQ_E_IO, "cannot read '%s': %s", path, strerror(errno)));
out:
    fclose(f);
    return rc;
}

int sq_ids_load(struct sq_ids *out, const char *path)
{
    char *text = NULL;
    size_t size = 0, at = 0;
    json_t *json = NULL;
    int rc;
    SQ_TRY(read_all(&text, &size, path));
    while (at < size && isspace((unsigned char)text[at]))
        at++;
    if (at < size && (text[at] == '[' || text[at] == '{')) {
        SQ_TRY(sq_json_parse(&json, text, size, path));
        SQ_TRY(from_json(out, json, path));
    } else
        SQ_TRY(from_words(out, text, size, path));
    rc = 0;
out:
    json_decref(json);
    sq_free(text);
    return rc;
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
    char *text = NULL;
    size_t size = 0;
    int rc;
    SQ_TRY(tokenizer(&tok, src));
    SQ_TRY(read_all(&text, &size, path));
    SQ_TRY(sq_tok_encode(out, tok, text, size, SQ_TOK_RULE));
    if (sq_tok_dropped(tok))
        sq_log(SQ_WARNING, "%" PRId64 " characters of '%s' are not in the vocabulary and were dropped",
               sq_tok_dropped(tok), path);
out:
    sq_free(text);
    sq_tok_free(&tok);
    return rc;
}
