/* --schedule and its invariants: every layer covered, windows never move back */
#include <string.h>

#include "sq/schedule.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[128];
    struct sq_schedule s;
    if (size < 2 || size >= sizeof text)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    if (sq_schedule_parse(&s, text, data[0] + 1) < 0)
        return 0;
    int64_t next = 0;
    for (int64_t i = 0; i < s.n; i++) {
        SQ_ASSERT(s.window[i].first <= next && s.window[i].first <= s.window[i].last && s.window[i].last <= data[0]);
        SQ_ASSERT(i == 0 || s.window[i].first >= s.window[i - 1].first);
        next = SQ_MAX(next, s.window[i].last + 1);
    }
    SQ_ASSERT(next == data[0] + 1);
    sq_schedule_release(&s);
    return 0;
}
