#include "sq/net.h"

static struct sq_net told = SQ_NET_INIT;

void sq_net_set(const struct sq_net *net)
{
    told = *net;
}

const struct sq_net *sq_net(void)
{
    return &told;
}
