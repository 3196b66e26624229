/* sq-calib.c - add calibration samples to a model stream */
#include "sq/app.h"
#include "sq/calib.h"
#include "sq/config.h"
#include "sq/json.h"
#include "sq/op.h"
#include "sq/stats.h"
#include "sq/stream.h"
#include "sq/tok.h"

struct job {
    struct sq_strs texts;
    const char *ids;
    struct sq_draw draw;
    struct sq_config cfg;
    struct sq_tok_files files;
    struct sq_stats_pass *stats;
    const struct sq_app *app;
    bool have_model, want_stats;
};

/* The ids of all texts, or of the file of ids. */
static int read_ids(struct sq_ids *ids, int32_t *bos, const struct job *job)
{
    struct sq_text text = SQ_TEXT_INIT;
    struct sq_tok *tok = NULL;
    int rc = 0;

    *bos = -1;
    if (job->ids) {
        SQ_TRY(sq_ids_read(ids, job->ids));
        goto out;
    }
    SQ_TRY(sq_tok_from_files(&tok, &job->files));
    for (int i = 0; i < job->texts.n; i++)
        SQ_TRY(sq_text_read(&text, job->texts.v[i]));
    SQ_TRY(sq_tok_encode(ids, tok, text.p, text.n, SQ_TOK_RULE));
    if (sq_tok_dropped(tok))
        sq_log(SQ_WARNING, "%" PRId64 " characters are not in the vocabulary and are left out", sq_tok_dropped(tok));
    *bos = sq_tok_bos(tok);
out:
    sq_tok_free(&tok);
    sq_text_release(&text);
    return rc;
}

static int put_samples(struct sq_stream *out, struct job *job)
{
    struct sq_ids ids = SQ_IDS_INIT;
    struct sq_samples samples = SQ_SAMPLES_INIT;
    json_t *head = NULL;
    int32_t bos;
    int rc = 0;

    if (!job->have_model)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "tensors come before the model record"));
    if (job->draw.length == 0)
        job->draw.length = SQ_MIN(job->cfg.max_positions, 2048);
    if (job->draw.length > job->cfg.max_positions)
        SQ_TRY(sq_fail(SQ_E_ARG, "samples of %" PRId64 " tokens, the model has %" PRId64 " positions", job->draw.length,
                       job->cfg.max_positions));
    SQ_TRY(read_ids(&ids, &bos, job));
    SQ_TRY(sq_ids_check(&ids, job->cfg.vocab));
    SQ_TRY(sq_samples_draw(&samples, &ids, &job->draw));
    SQ_TRY(sq_samples_head(&head, &samples, &ids, bos, job->draw.seed));
    SQ_TRY(sq_stream_put(out, head, samples.id, (size_t)(samples.samples * samples.length) * sizeof(*samples.id)));
    sq_log(SQ_INFO, "%" PRId64 " samples of %" PRId64 " tokens, %" PRId64 " held out, from %" PRId64 " tokens", samples.samples,
           samples.length, samples.heldout, ids.n);
    if (job->want_stats)
        SQ_TRY(sq_stats_new(&job->stats, &job->cfg, &samples, job->app));
out:
    json_decref(head);
    sq_samples_release(&samples);
    sq_ids_release(&ids);
    return rc;
}

/* Pass a record on; what the tokenizer is made of is kept. */
static int take(struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec, struct job *job)
{
    const char *name;
    json_t *config;
    void *room;
    int rc = 0;

    if (rec->kind == SQ_REC_TOKENS)
        return sq_fail(SQ_E_FORMAT, "the stream has calibration tokens already");
    if (rec->kind == SQ_REC_MODEL) {
        SQ_TRY(sq_json_object(&config, rec->head, "config"));
        SQ_TRY(sq_config_from_json(&job->cfg, config));
        job->have_model = true;
    } else if (rec->kind == SQ_REC_FILE) {
        SQ_TRY(sq_json_str(&name, rec->head, "name"));
        SQ_TRY(sq_tok_files_room(&job->files, name, rec->bytes, &room));
        if (rc > 0) {
            SQ_TRY(sq_stream_payload(in, room, (size_t)rec->bytes));
            return sq_stream_put(out, rec->head, room, (size_t)rec->bytes);
        }
    }
    rc = job->stats ? sq_stats_pass_on(job->stats, out, in, rec) : sq_stream_copy(out, in, rec);
out:
    return rc;
}

int main(int argc, char **argv)
{
    struct job job = {.draw = {.samples = 128, .heldout = -1}, .files = SQ_TOK_FILES_INIT};
    const struct sq_opt opts[] = {
        SQ_OPT_LIST('t', "text", &job.texts, "FILE", "text, plain or JSON lines with \"text\"; may be given several times"),
        SQ_OPT_STR(0, "ids", &job.ids, "FILE", "token ids (numbers) instead of text"),
        SQ_OPT_INT('n', "samples", &job.draw.samples, 1, 1 << 20, "samples to learn from"),
        SQ_OPT_INT('l', "length", &job.draw.length, 0, 1 << 20, "tokens of a sample; 0: 2048 or what the model has"),
        SQ_OPT_INT(0, "heldout", &job.draw.heldout, -1, 1 << 20, "samples only measured; -1: a sixteenth of --samples"),
        SQ_OPT_FLAG(0, "stats", &job.want_stats, "every layer gets the mean squares of its linears' input channels"),
        SQ_OPT_END,
    };
    struct sq_app app;
    struct sq_stream *in = NULL, *out = NULL;
    struct sq_record rec = SQ_RECORD_INIT;
    bool done = false;
    int rc = 0;

    sq_app_init(&app, "sq-calib", "-t FILE | --ids FILE", "add calibration samples to a model stream", opts, 0, argc, argv);
    job.draw.seed = (uint64_t)app.seed;
    job.app = &app;
    if (!job.ids == !job.texts.n) {
        (void)sq_app_exit(&app, sq_fail(SQ_E_ARG, "give either --text or --ids"));
        return 2;
    }
    if (job.want_stats)
        sq_ops_choose(&app);
    SQ_TRY(sq_stream_open(&in, app.in, SQ_READ));
    SQ_TRY(sq_stream_open(&out, app.out, SQ_WRITE));
    SQ_TRY(sq_stream_begin(out, in, &app));
    while ((rc = sq_stream_next(in, &rec)) > 0) {
        if (!done && (rec.kind == SQ_REC_TENSOR || rec.kind == SQ_REC_LAYER)) {
            SQ_TRY(put_samples(out, &job));
            done = true;
        }
        SQ_TRY(take(out, in, &rec, &job));
    }
    if (rc < 0)
        goto out;
    if (!done)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "the stream has no tensors"));
    SQ_TRY(sq_stream_finish(&out));
out:
    sq_stats_free(&job.stats);
    sq_tok_files_release(&job.files);
    sq_record_release(&rec);
    sq_stream_abort(&out, rc);
    sq_stream_abort(&in, rc);
    return sq_app_exit(&app, rc);
}
