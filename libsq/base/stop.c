#include "sq/stop.h"

#include <signal.h>
#include <string.h>

static volatile sig_atomic_t came;

static void note(int sig)
{
    came = sig;
}

void sq_stop_catch(void)
{
    struct sigaction act;
    memset(&act, 0, sizeof act);
    act.sa_handler = note;
    act.sa_flags = (int)SA_RESETHAND; /* no SA_RESTART: a read that waits for a slow upstream must wake up */
    sigemptyset(&act.sa_mask);
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
}

int sq_stopped(void)
{
    return (int)came;
}

int sq_stop_check(void)
{
    return came ? sq_fail(SQ_E_IO, "stopped by signal %d", (int)came) : 0;
}

void sq_stop_raise(void)
{
    if (!came)
        return;
    signal((int)came, SIG_DFL);
    raise((int)came);
}
