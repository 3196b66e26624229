#!/usr/bin/env bash
# Every test, from a bare Debian machine: packages, builds, unit, operation, command line and pipeline tests, recipes,
# sanitizers, a build without the optional libraries. Ends with "N passed, N failed, N skipped".
set -uo pipefail
cd "$(dirname "$0")/.."
# shellcheck disable=SC2046
sh mk/packages.sh $(cat mk/build-packages.txt mk/test-packages.txt) || exit 1
jobs=$(nproc)
pass=0 fail=0 skip=0

step() { # step NAME COMMAND...: one check that passes or fails as a whole
    local name=$1
    shift
    if "$@" >build/step.log 2>&1; then
        pass=$((pass + 1))
        echo "ok: $name"
    else
        fail=$((fail + 1))
        echo "FAILED: $name"
        tail -30 build/step.log
    fi
}

suite() { # suite NAME COMMAND...: a run of tests/run.sh, whose counts are added
    local name=$1 last
    shift
    echo "== $name"
    "$@" 2>&1 | tee build/suite.log | grep -vE '^[0-9]+ passed'
    last=$(grep -E '^[0-9]+ passed, [0-9]+ failed' build/suite.log | tail -1)
    if [ -z "$last" ]; then
        fail=$((fail + 1))
        echo "FAILED: $name did not finish"
        return
    fi
    echo "$name: $last"
    # shellcheck disable=SC2086
    set -- $last
    pass=$((pass + $1)) fail=$((fail + $3)) skip=$((skip + ${5:-0}))
}

mkdir -p build
step "build with gcc, warnings are errors" make -j"$jobs" DEV=1 CC=gcc all tests
step "build with clang, warnings are errors" make -j"$jobs" DEV=1 CC=clang all tests
step "build without BLIS, oneDNN, ZeroMQ and nvcc" make -j"$jobs" BUILD=build/plain HAVE_BLIS=0 HAVE_ONEDNN=0 HAVE_ZMQ=0 HAVE_NVCC=0 all tests
step "build with address and undefined sanitizers" make -j"$jobs" SAN=address,undefined all tests fuzz-replay
# the last build is the one that build/bin points to
step "build" make -j"$jobs" all tests
step "module order" sh mk/order.sh
step "headers stand alone, in C and C++" make hdr-check
suite "tests" tests/run.sh build/gcc
suite "operations without BLIS and oneDNN" env SQ_TESTS=unit tests/run.sh build/plain/gcc tests/ops
if grep -qw avx2 /proc/cpuinfo; then
    suite "goldens and threads as on a processor without bf16" env SQ_TESTS=unit SQ_ISA=avx2 ONEDNN_MAX_CPU_ISA=AVX2 tests/run.sh build/gcc "test_(window|fold|block|engine|merge)\$"
else
    echo "skipped: goldens and threads with SQ_ISA=avx2, which this processor does not have"
fi
suite "unit tests under sanitizers" env SQ_TESTS=unit tests/run.sh build/gcc-address-undefined tests/unit
suite "jobs and endpoints under sanitizers" tests/run.sh build/gcc-address-undefined "pipe/(jobs|network)"
suite "kernels under sanitizers" tests/run.sh build/gcc-address-undefined sq-gpucheck
suite "fuzz corpus" tests/fuzz/replay.sh build/gcc-address-undefined
echo "$pass passed, $fail failed, $skip skipped"
[ "$fail" -eq 0 ]
