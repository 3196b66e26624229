/* bin/sq-dump.c - what is in a stream: list, look, check, digest, compare */
#include <stdio.h>
#include <string.h>

#include "sq/app.h"
#include "sq/inspect.h"
#include "sq/keys.h"

int main(int argc, char **argv)
{
    struct sq_app app;
    struct sq_inspect_tensor want = {.name = NULL, .layer = -1, .values = 32};
    bool json = false, check = false, digest = false, cmp = false, prov = false;
    const char *keygen = NULL;
    double tolerance = 0;
    char text[SQ_HASH_TEXT];
    const struct sq_opt opts[] = {
        SQ_OPT_STR(0, "tensor", &want.name, "NAME", "statistics and values of one tensor"),
        SQ_OPT_INT(0, "layer", &want.layer, -1, 1 << 20, "with --tensor: the one of this layer; -1: any"),
        SQ_OPT_INT(0, "values", &want.values, 0, INT64_MAX / 4, "with --tensor: how many values"),
        SQ_OPT_FLAG(0, "json", &json, "JSON lines in place of text"),
        SQ_OPT_FLAG(0, "check", &check,
                    "is it a complete, valid model stream? status 4 if not, 3 if cut short"),
        SQ_OPT_FLAG(0, "digest", &digest,
                    "digest of tokens, layers and tensors; not of provenance, windows, cursors"),
        SQ_OPT_FLAG(0, "cmp", &cmp, "compare two streams; status 4 if they differ"),
        SQ_OPT_REAL(0, "tolerance", &tolerance, 0.0, 1e6,
                    "with --cmp: of a tensor's largest value; 0: bit for bit"),
        SQ_OPT_FLAG(0, "prov", &prov, "the commands that made it, oldest first"),
        SQ_OPT_STR(0, "keygen", &keygen, "FILE", "make a pair of keys for tcp: FILE, secret, and FILE.pub"),
        SQ_OPT_END,
    };
    int rc = 0;

    sq_app_init(&app, "sq-dump", "[STREAM [STREAM]]", "list, check, digest or compare streams", opts, 2, argc,
                argv);
    const char *a = app.narg > 0 ? app.arg[0] : app.in, *b = app.narg > 1 ? app.arg[1] : "-";
    if (check + digest + cmp + prov + (want.name != NULL) + (keygen != NULL) > 1 || (!cmp && app.narg > 1) ||
        (cmp && strcmp(a, b) == 0)) {
        rc = sq_fail(SQ_E_ARG, cmp ? "--cmp takes two different streams and no other task"
                                   : "one task and one stream at a time");
        (void)sq_app_exit(&app, rc);
        return 2;
    }
    if (keygen) {
        rc = sq_keys_generate(keygen);
    } else if (check) {
        rc = sq_inspect_check(stdout, a);
    } else if (digest) {
        SQ_TRY(sq_inspect_digest(text, a));
        printf("%s\n", text);
    } else if (cmp) {
        rc = sq_inspect_cmp(stdout, a, b, tolerance);
    } else if (prov) {
        rc = sq_inspect_provenance(stdout, a, json);
    } else if (want.name) {
        rc = sq_inspect_tensor(stdout, a, &want, json);
    } else {
        rc = sq_inspect_list(stdout, a, json);
    }
out:
    return sq_app_exit(&app, rc);
}
