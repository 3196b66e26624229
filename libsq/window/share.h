/* what goes between a process that learns and its workers (schemas/stream.md)
 *
 *     to a worker     worker  (share  layer ...  tensor xq  tensor target  tensor weight  step ...) ...
 *     from a worker   worker  gradient ...
 *
 * A share is a window: its layers and all that its steps need but the parameters, which come with every step. */
#ifndef SQ_SHARE_H
#define SQ_SHARE_H

#include "acts.h"
#include "shards.h"
#include "sq/layer.h"

extern const char *const share_kind[SQ_P_KINDS]; /* as a share names what is learned */

/* A pipe whose reader left is an error from here on, not the death of the process: each side says why it ends. */
void share_ignore_sigpipe(void);
/* rc of a write that failed; where the peer is gone and has said why before it went, that. */
int share_why(int rc, struct sq_stream *in) SQ_MUSTUSE;
/* The next record, which must be of that name; SQ_E_TRUNC at the end of the stream. */
int share_next(struct sq_record *rec, struct sq_stream *in, const char *name) SQ_MUSTUSE;
bool share_is(const struct sq_record *rec, const char *name);

/* The first record of both sides. A worker sends back number, of and run as they came to it, and what it is itself. */
struct greeting {
    int64_t number, of; /* this is worker number (from 1) of so many */
    char run[SQ_HASH_TEXT];
    char machine[160]; /* version and backend: who does not share them does not compute the same bits */
};

int greeting_machine(struct greeting *g, const struct sq_app *app) SQ_MUSTUSE;
int greeting_put(struct sq_stream *out, const struct greeting *g) SQ_MUSTUSE;
int greeting_next(struct greeting *g, struct sq_stream *in) SQ_MUSTUSE;

/* A record whose payload is what the job learns: values, or gradients. head is taken over. */
int share_put(struct sq_stream *out, json_t *head, const struct sq_window_job *job, bool gradients) SQ_MUSTUSE;
int share_get(struct sq_stream *in, const struct sq_record *rec, const struct sq_window_job *job, bool gradients) SQ_MUSTUSE;

#endif
