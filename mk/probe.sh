#!/bin/sh
# Compile-and-link probes -> DIR/config.mk and DIR/config.h; HAVE_X=0 in the environment switches one off.
set -eu
dir=$1
cc=${CC:-gcc}
mkdir -p "$dir"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

try() { # try 'flags' 'libs' 'program'
    printf '%s\n' "$3" >"$tmp/t.c"
    # shellcheck disable=SC2086
    $cc $1 "$tmp/t.c" $2 -o "$tmp/t" 2>"$tmp/err"
}

need() { # need name package 'libs' 'program'
    try "" "$3" "$4" || {
        echo "sq: $1 is needed: apt-get install $2" >&2
        sed 's/^/    /' "$tmp/err" | head -5 >&2
        exit 1
    }
}

need msgpack libmsgpack-dev -lmsgpackc '#include <msgpack.h>
int main(void) { msgpack_sbuffer b; msgpack_sbuffer_init(&b); return 0; }'
need jansson libjansson-dev -ljansson '#include <jansson.h>
int main(void) { return json_object() == 0; }'
need PCRE2 libpcre2-dev -lpcre2-8 '#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
int main(void) { return pcre2_config(PCRE2_CONFIG_UNICODE, 0) < 0; }'
need utf8proc libutf8proc-dev -lutf8proc '#include <utf8proc.h>
int main(void) { return utf8proc_version() == 0; }'
need xxHash libxxhash-dev -lxxhash '#include <xxhash.h>
int main(void) { return XXH3_64bits("", 0) == 0; }'
libs="-lmsgpackc -ljansson -lpcre2-8 -lutf8proc -lxxhash"
cflags=""
arch=$($cc -dumpmachine)

blis=no onednn=no zmq=no
if [ "${HAVE_BLIS:-}" != 0 ]; then
    for inc in "/usr/include/$arch/blis-openmp" "/usr/include/x86_64-linux-gnu/blis-openmp" /usr/include/blis /usr/local/include/blis; do
        if try "-I$inc -fopenmp" "-lblis -lm" '#include <blis.h>
int main(void) { return bli_info_get_version_str()[0] == 0; }'; then
            blis=yes cflags="$cflags -isystem $inc" libs="$libs -lblis"
            break
        fi
    done
fi
if [ "${HAVE_ONEDNN:-}" != 0 ] && try "" "-ldnnl" '#include <dnnl.h>
int main(void) { return dnnl_version()->major < 2; }'; then
    onednn=yes libs="$libs -ldnnl"
fi
if [ "${HAVE_ZMQ:-}" != 0 ] && try "" "-lzmq" '#include <zmq.h>
int main(void) { int a, b, c; zmq_version(&a, &b, &c); return a < 4; }'; then
    zmq=yes libs="$libs -lzmq"
fi

emulates=
if [ "${HAVE_CXX:-}" != 0 ] && echo 'int f() { return 0; }' >"$tmp/t.cpp" &&
    ${CXX:-g++} -std=c++20 -fopenmp -fPIC -shared "$tmp/t.cpp" -o "$tmp/t.so" 2>"$tmp/err"; then
    emulates=yes
fi

nvcc=
if [ "${HAVE_NVCC:-}" != 0 ]; then
    nvcc=$(command -v nvcc || command -v /usr/local/cuda/bin/nvcc || true)
fi

yes01() { [ "$1" = yes ] && echo 1 || echo 0; }
{
    echo "/* made by mk/probe.sh */"
    echo "#define SQ_HAVE_BLIS $(yes01 $blis)"
    echo "#define SQ_HAVE_ONEDNN $(yes01 $onednn)"
    echo "#define SQ_HAVE_ZMQ $(yes01 $zmq)"
    echo "#define SQ_COMPILER \"$($cc --version | head -1)\""
} >"$dir/config.h"
{
    echo "CONFIG_CFLAGS :=$cflags"
    echo "CONFIG_LIBS := $libs"
    echo "EMULATES := $emulates"
    echo "NVCC := $nvcc"
} >"$dir/config.mk"
echo "sq: $cc; blis $blis, onednn $onednn, zmq $zmq, emulator ${emulates:-no}, nvcc ${nvcc:-no}" >&2
[ -n "$emulates" ] || echo "sq: libsq_emu.so skipped: no compiler for C++20" >&2
[ -n "$nvcc" ] || echo "sq: libsq_cuda.so skipped: no nvcc" >&2
