#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "../../libsq/wire/netspec.h"

static void forms(void **state)
{
    static const struct {
        const char *spec;
        enum sq_dir dir;
        bool binds, loopback;
        const char *url;
    } good[] = {
        {"tcp://127.0.0.1:5555", SQ_READ, true, true, "tcp://127.0.0.1:5555"},
        {"tcp://127.0.0.1:5555", SQ_WRITE, false, true, "tcp://127.0.0.1:5555"},
        {"@tcp://127.9.9.9:1", SQ_WRITE, true, true, "tcp://127.9.9.9:1"},
        {">tcp://localhost:65535", SQ_READ, false, true, "tcp://127.0.0.1:65535"},
        {"tcp://[::1]:80", SQ_READ, true, true, "tcp://[::1]:80"},
        {"tcp://*:5555", SQ_READ, true, false, "tcp://*:5555"},
        {"tcp://0.0.0.0:5555", SQ_READ, true, false, "tcp://0.0.0.0:5555"},
        {"tcp://[::]:5555", SQ_READ, true, false, "tcp://[::]:5555"},
        {"tcp://[::ffff:127.0.0.1]:5", SQ_READ, true, false, "tcp://[::ffff:127.0.0.1]:5"},
        {"tcp://10.1.2.3:5", SQ_WRITE, false, false, "tcp://10.1.2.3:5"},
        {"tcp://128.0.0.1:5", SQ_WRITE, false, false, "tcp://128.0.0.1:5"},
        {"ipc:///tmp/a b", SQ_READ, true, false, "ipc:///tmp/a b"},
        {">ipc://a", SQ_READ, false, false, "ipc://a"},
    };
    (void)state;
    for (int i = 0; i < SQ_COUNT(good); i++) {
        struct netspec n;
        char url[NETSPEC_URL];
        assert_true(netspec_is(good[i].spec));
        assert_false(sq_stream_is_path(good[i].spec));
        assert_int_equal(netspec_parse(&n, good[i].spec, good[i].dir), 0);
        assert_int_equal(n.binds, good[i].binds);
        assert_int_equal(n.loopback, good[i].loopback);
        assert_int_equal(netspec_url(url, &n, good[i].spec), 0);
        assert_string_equal(url, good[i].url);
    }
}

/* A name never is loopback, whatever it resolves to; the look-up itself is not tested: it depends on the machine. */
static void names(void **state)
{
    static const char *const name[] = {"tcp://localhost.:5", "tcp://LOCALHOST:5", "tcp://ip6-localhost:5", "tcp://127.1:5",
                                       "tcp://0x7f000001:5", "tcp://2130706433:5", "tcp://127.0.0.1.evil.example:5"};
    (void)state;
    for (int i = 0; i < SQ_COUNT(name); i++) {
        struct netspec n;
        assert_int_equal(netspec_parse(&n, name[i], SQ_WRITE), 0);
        assert_false(n.loopback);
        assert_int_equal(netspec_parse(&n, name[i], SQ_READ), SQ_E_ARG); /* nothing binds to a name */
    }
}

static void refused(void **state)
{
    static const char *const bad[] = {
        "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://:5", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:*", "tcp://127.0.0.1:5x", "tcp://127.0.0.1: 5", "tcp://127.0.0.1:+5", "tcp://127.0.0.1:000005",
        "tcp://[::1]5", "tcp://[::1:5", "tcp://[]:5", "tcp://[127.0.0.1]:5", "tcp://[fe80::1%eth0]:5", "tcp://::1:5",
        "tcp://*", "tcp://eth0;10.0.0.1:5", "tcp://a b:5", "tcp://-x:5", "@@tcp://127.0.0.1:x", "@tcp://eth0:5",
        "ipc://", "ipc://*", "ipc://@name", "@ipc://", ">tcp://*:5",
    };
    char spec[300] = "ipc://";
    struct netspec n;
    (void)state;
    for (int i = 0; i < SQ_COUNT(bad); i++)
        assert_int_equal(netspec_parse(&n, bad[i], SQ_WRITE), SQ_E_ARG);
    memset(spec + 6, 'a', NETSPEC_PATH);
    assert_int_equal(netspec_parse(&n, spec, SQ_READ), SQ_E_ARG);
    spec[6 + NETSPEC_PATH - 1] = 0;
    assert_int_equal(netspec_parse(&n, spec, SQ_READ), 0);
    assert_false(netspec_is("udp://x:1"));
    assert_false(netspec_is("dir/tcp://x:1"));
    assert_true(sq_stream_is_path("dir/tcp://x:1"));
    assert_false(sq_stream_is_path("-"));
    assert_false(sq_stream_is_path("fd:3"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms),
        cmocka_unit_test(names),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
