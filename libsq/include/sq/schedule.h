/* sq/schedule.h - which layers are learned together, in which order (docs/method.md 5) */
#ifndef SQ_SCHEDULE_H
#define SQ_SCHEDULE_H

#include "sq/base.h"

SQ_BEGIN_DECLS

struct sq_window {
    int64_t first, last; /* layers, both included */
};

struct sq_schedule {
    struct sq_window *window;
    int64_t n;
};

/* text: slider[:Ls,Ld,s,i] (default 4,4,2,1; later numbers may be left out) | fixed:s,i | layer | blocks:n |
 * LIST ("0-0,0-1,0-2,3-4" or "0,1,2-3": no layer left out). layers is L, 1 to 1024. Neither first nor last
 * layers decrease from window to window; a window equal to the one before it is dropped, and so is a fixed
 * one that would begin behind the first contracting one. SQ_E_ARG says what is wrong and suggests values when
 * L < Ls + Ld. Owner: caller, release with sq_schedule_release. */
int sq_schedule_parse(struct sq_schedule *s, const char *text, int64_t layers) SQ_MUSTUSE;
void sq_schedule_release(struct sq_schedule *s);

SQ_END_DECLS
#endif
