#include "sq/work.h"

#include <string.h>

static enum sq_work current;
static double since, spent[SQ_WORKS]; /* since 0: the clock has not started */

enum sq_work sq_work_begin(enum sq_work work)
{
    const enum sq_work before = current;
    const double now = sq_now();
    if (since > 0.0)
        spent[current] += now - since;
    since = now;
    current = work;
    return before;
}

void sq_work_seconds(double out[SQ_WORKS])
{
    (void)sq_work_begin(current);
    memcpy(out, spent, sizeof spent);
}

const char *sq_work_name(int work)
{
    static const char *const name[SQ_WORKS] = {"rest",    "products",  "attention",
                                               "weights", "optimizer", "stream"};
    SQ_ASSERT(work >= 0 && work < SQ_WORKS);
    return name[work];
}
