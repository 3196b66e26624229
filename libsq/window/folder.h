/* the work folder: a stream file for every window and stage that is done, so that a run that was stopped, in
 * whatever way, goes on behind them
 *
 * DIR/stage-001-window-0003.sq (schemas/stream.md: work) holds what the layers of the window have learned when it is
 * done. Activations are not kept: the layers are, and the same forwards give the same bits. */
#ifndef SQ_FOLDER_H
#define SQ_FOLDER_H

#include "made.h"
#include "sq/layer.h"

struct folder;

/* The plan's folder; NULL where it has none, or nothing is learned or searched. It is locked for the life of this process
 * (SQ_E_ARG: another one has it), and every file in it is checked: SQ_E_ARG names the option that it was made with and
 * that differs now, SQ_E_FORMAT a damaged one. */
int folder_open(struct folder **out, const struct sq_plan *p, const struct sq_app *app) SQ_MUSTUSE;
void folder_close(struct folder **f);
int64_t folder_bytes(const struct folder *f); /* of its files, when it was opened */

/* What decides the bytes, as this process has it: options and machine. A new reference, for a pass to add its input. */
json_t *folder_made(const struct folder *f);

/* One window and stage of a run. */
struct finished {
    int stage;      /* index of its rate among the plan's */
    int64_t window; /* index in the schedule */
    int64_t first, n;
    struct sq_scheme scheme; /* at the stage's rate */
    const struct sq_config *cfg;
    const json_t *made;
    struct sq_params **p; /* [n]: of its layers, with all arrays that they get */
};

bool folder_has(const struct folder *f, const struct finished *w);
/* 1: the parameters are those of the file, *record is the window record (a new reference); 0: there is no file. SQ_E_ARG when
 * it was made from another input. */
int folder_restore(json_t **record, const struct folder *f, const struct finished *w) SQ_MUSTUSE;
/* On disk under its name, or an error and nothing. */
int folder_save(const struct folder *f, const struct finished *w, const json_t *record) SQ_MUSTUSE;

#endif
