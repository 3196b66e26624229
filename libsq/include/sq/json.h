/* sq/json.h - strict reading of JSON objects: every getter names the key that is wrong.
 * A record header, a config.json and a line of --metrics are all json_t (jansson). */
#ifndef SQ_JSON_H
#define SQ_JSON_H

#include <jansson.h>

#include "sq/base.h"

SQ_BEGIN_DECLS

/* Parse n bytes of untrusted JSON (jansson limits the depth to 2048; duplicate keys are refused;
 * integers beyond 64 bits become reals).
 * what names the source in errors. *out is a new reference. SQ_E_FORMAT. */
int sq_json_parse(json_t **out, const char *text, size_t n, const char *what) SQ_MUSTUSE;
/* Read a whole file (at most 256 MiB) and parse it. SQ_E_IO, SQ_E_FORMAT. */
int sq_json_load(json_t **out, const char *path) SQ_MUSTUSE;

/* Required member of obj, of the right type and in [min, max]. SQ_E_FORMAT names key and range.
 * Strings and containers are borrowed from obj. */
int sq_json_int(int64_t *out, const json_t *obj, const char *key, int64_t min, int64_t max) SQ_MUSTUSE;
int sq_json_real(double *out, const json_t *obj, const char *key) SQ_MUSTUSE; /* finite; takes integers */
int sq_json_str(const char **out, const json_t *obj, const char *key) SQ_MUSTUSE;
int sq_json_bool(bool *out, const json_t *obj, const char *key) SQ_MUSTUSE;
int sq_json_array(json_t **out, const json_t *obj, const char *key) SQ_MUSTUSE;
int sq_json_object(json_t **out, const json_t *obj, const char *key) SQ_MUSTUSE;

/* Like the above, but a missing or null member leaves *out as it is. */
int sq_json_int_opt(int64_t *out, const json_t *obj, const char *key, int64_t min, int64_t max) SQ_MUSTUSE;
int sq_json_real_opt(double *out, const json_t *obj, const char *key) SQ_MUSTUSE;
int sq_json_str_opt(const char **out, const json_t *obj, const char *key) SQ_MUSTUSE;
int sq_json_bool_opt(bool *out, const json_t *obj, const char *key) SQ_MUSTUSE;

SQ_END_DECLS
#endif
