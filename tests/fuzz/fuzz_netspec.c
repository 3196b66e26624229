/* The grammar of ipc:// and tcp:// endpoints: what is taken for loopback is an address of loopback */
#include <arpa/inet.h>
#include <string.h>

#include "../../libsq/wire/netspec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[512];
    struct netspec n;
    struct in_addr v4;
    struct in6_addr v6;

    if (size == 0 || size >= sizeof text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    for (int dir = SQ_READ; dir <= SQ_WRITE; dir++) {
        if (netspec_parse(&n, text, (enum sq_dir)dir) < 0)
            continue;
        SQ_ASSERT(netspec_is(text) && !sq_stream_is_path(text));
        if (!n.tcp) {
            SQ_ASSERT(n.path[0] && strlen(n.path) < NETSPEC_PATH && !n.loopback);
            continue;
        }
        SQ_ASSERT(n.port >= 1 && n.port <= 65535 && n.host[0]);
        const bool is4 = inet_pton(AF_INET, n.host, &v4) == 1, is6 = inet_pton(AF_INET6, n.host, &v6) == 1;
        SQ_ASSERT(!n.loopback || (is4 && (ntohl(v4.s_addr) >> 24) == 127) || (is6 && IN6_IS_ADDR_LOOPBACK(&v6)));
        SQ_ASSERT(!n.binds || is4 || is6 || strcmp(n.host, "*") == 0);
        char url[NETSPEC_URL];
        if (is4 || is6 || n.binds)
            SQ_ASSERT(netspec_url(url, &n, text) == 0 && strncmp(url, "tcp://", 6) == 0);
    }
    return 0;
}
