#include "netspec.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *after_mark(const char *spec)
{
    return spec + (*spec == '@' || *spec == '>');
}

bool netspec_is(const char *spec)
{
    const char *p = after_mark(spec);
    return strncmp(p, "ipc://", 6) == 0 || strncmp(p, "tcp://", 6) == 0;
}

/* libzmq gives '@...' and '*' meanings of their own: names without an owner, names that nobody could know */
static int parse_ipc(struct netspec *n, const char *path, const char *spec)
{
    if (!*path || *path == '@' || strcmp(path, "*") == 0)
        return sq_fail(SQ_E_ARG, "'%.200s' names no socket: ipc://PATH takes a path such as ipc:///tmp/run/a", spec);
    if (strlen(path) >= sizeof n->path)
        return sq_fail(SQ_E_ARG, "'%.200s': the path of a socket has at most %zu bytes", spec, sizeof n->path - 1);
    snprintf(n->path, sizeof n->path, "%s", path);
    return 0;
}

static int parse_port(int *port, const char *text)
{
    char *end;
    const size_t n = strspn(text, "0123456789");
    const long x = strtol(text, &end, 10);
    if (n == 0 || n > 5 || text[n] || x < 1 || x > 65535)
        return SQ_E_ARG;
    *port = (int)x;
    return 0;
}

static bool is_name(const char *host)
{
    for (const char *p = host; *p; p++)
        if (!isalnum((unsigned char)*p) && *p != '-' && *p != '.' && *p != '_')
            return false;
    return *host && *host != '-';
}

/* Only these are loopback: other spellings of the same address (::ffff:127.0.0.1, a name of this machine) count as
 * the network, and ask for keys. */
static int classify(struct netspec *n, const char *spec)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (n->ipv6) {
        if (inet_pton(AF_INET6, n->host, &v6) != 1)
            return sq_fail(SQ_E_ARG, "'%.200s': '%.100s' is no IPv6 address", spec, n->host);
        n->loopback = memcmp(&v6, &in6addr_loopback, sizeof v6) == 0;
        return 0;
    }
    if (strcmp(n->host, "localhost") == 0)
        snprintf(n->host, sizeof n->host, "127.0.0.1"); /* whatever the resolver would say */
    if (inet_pton(AF_INET, n->host, &v4) == 1) {
        n->loopback = ntohl(v4.s_addr) >> 24 == 127;
        return 0;
    }
    if (n->binds && strcmp(n->host, "*") != 0)
        return sq_fail(SQ_E_ARG, "'%.200s': a side that binds takes an address of this machine or *, not the name '%.100s'",
                       spec, n->host);
    if (!n->binds && !is_name(n->host))
        return sq_fail(SQ_E_ARG, "'%.200s': '%.100s' is no host to connect to", spec, n->host);
    n->ipv6 = n->binds; /* "*" is every address of both kinds */
    return 0;
}

static int parse_tcp(struct netspec *n, const char *text, const char *spec)
{
    const bool bracket = *text == '[';
    const char *host = text + bracket;
    const char *end = bracket ? strstr(host, "]:") : strrchr(host, ':');
    if (!end || end == host || (size_t)(end - host) >= sizeof n->host ||
        parse_port(&n->port, end + (bracket ? 2 : 1)) < 0)
        return sq_fail(SQ_E_ARG, "'%.200s' is not tcp://HOST:PORT with a port from 1 to 65535 (IPv6: tcp://[::1]:PORT)",
                       spec);
    memcpy(n->host, host, (size_t)(end - host));
    n->ipv6 = bracket;
    return classify(n, spec);
}

int netspec_parse(struct netspec *n, const char *spec, enum sq_dir dir)
{
    const char *p = after_mark(spec);
    *n = (struct netspec){.tcp = strncmp(p, "tcp://", 6) == 0, .binds = p > spec ? *spec == '@' : dir == SQ_READ};
    if (!netspec_is(spec))
        return sq_fail(SQ_E_ARG, "'%.200s' is neither ipc://PATH nor tcp://HOST:PORT", spec);
    return n->tcp ? parse_tcp(n, p + 6, spec) : parse_ipc(n, p + 6, spec);
}

/* The first address of a name, in the resolver's order. */
static int look_up(struct netspec *n, const char *spec)
{
    const struct addrinfo want = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char text[NETSPEC_HOST];
    int e = getaddrinfo(n->host, NULL, &want, &found);

    if (e == 0)
        e = getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
    if (e == 0) {
        n->ipv6 = found->ai_family == AF_INET6;
        memcpy(n->host, text, sizeof text);
    }
    if (found)
        freeaddrinfo(found);
    return e == 0 ? 0 : sq_fail(SQ_E_IO, "'%.200s': cannot find the host: %s", spec, gai_strerror(e));
}

int netspec_url(char url[NETSPEC_URL], struct netspec *n, const char *spec)
{
    struct in_addr v4;
    int rc = 0;

    if (!n->tcp) {
        snprintf(url, NETSPEC_URL, "ipc://%s", n->path);
        return 0;
    }
    if (!n->ipv6 && inet_pton(AF_INET, n->host, &v4) != 1)
        rc = look_up(n, spec);
    const bool bracket = n->ipv6 && strcmp(n->host, "*") != 0;
    snprintf(url, NETSPEC_URL, "tcp://%s%s%s:%d", bracket ? "[" : "", n->host, bracket ? "]" : "", n->port);
    return rc;
}
