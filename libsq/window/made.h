/* what decides the bytes of a run, as strings by option or by name: options, version, machine, and what a pass adds of its
 * input; so that what was made before, or for elsewhere, is used by its like only */
#ifndef SQ_MADE_H
#define SQ_MADE_H

#include <jansson.h>

#include "sq/engine.h"
#include "sq/op.h"

/* Options and machine; a new reference. */
int made_of(json_t **out, const struct sq_plan *p, const struct sq_ops *ops) SQ_MUSTUSE;
/* What decides the last bits of sums, in words; returns buf. */
const char *made_backend(char *buf, size_t n, const struct sq_ops *ops);
/* The shortest text that reads as x and nothing else; returns buf. */
enum { MADE_NUMBER = 32 };
const char *made_number(char buf[MADE_NUMBER], double x);
/* made[key] = printf text */
int made_note(json_t *made, const char *key, const char *fmt, ...) SQ_PRINTF(3, 4);
/* SQ_E_ARG, naming it, when `said` does not say the same of everything that is in mine. */
int made_compare(const json_t *said, const json_t *mine, const char *what) SQ_MUSTUSE;

#endif
