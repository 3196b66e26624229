/* libsq/base/opt.h - option tables behind sq_app_init: parsing, help and man text */
#ifndef SQ_BASE_OPT_H
#define SQ_BASE_OPT_H

#include <stdio.h>

#include "sq/app.h"

/* Rows of up to two tables, the program's own first; ends with SQ_OPT_END_. */
struct sq_opt_table {
    struct sq_opt row[96];
    int n;
};

/* Returns how many rows are the program's own. A common row whose name the program uses is left out: so a program can
 * have another default. */
int sq_opt_join(struct sq_opt_table *t, const struct sq_opt *own, const struct sq_opt *common);
/* Set row's value from text (NULL for flags). SQ_E_ARG names the option, its range or its choices. */
int sq_opt_set(const struct sq_opt *row, const char *text);
/* Parse argv: options into their values (each also appended to given), operands to the front of arg. */
int sq_opt_parse(const struct sq_opt_table *t, json_t *given, char **arg, int *narg, int argc, char **argv);
/* Lines "name value" or "name" of a --config file, '#' starts a comment. */
int sq_opt_config(const struct sq_opt_table *t, json_t *given, const char *path);
void sq_opt_help(FILE *f, const struct sq_opt *rows);
void sq_opt_man(FILE *f, const struct sq_opt *rows);

#endif
