#!/usr/bin/env bash
# Runs every test of one build and ends with "N passed, N failed, N skipped": run.sh BUILD_DIR [PATTERN]
# TAP from cmocka and bats; a test program that dies without a plan counts as failed.
set -u
cd "$(dirname "$0")/.."
build=$1 pattern=${2:-.}
logs=$build/test-logs
export PATH="$PWD/$build/bin:$PWD/$build/gen:$PATH" SQ_BUILD="$PWD/$build"
export ASAN_OPTIONS=exitcode=99 UBSAN_OPTIONS=exitcode=99 # a status that no program of sq has: tests that expect a failure see the finding
export OMP_WAIT_POLICY=passive # tests share the processors with whatever else runs
mkdir -p "$logs"
pass=0 fail=0 skip=0

count() { # count NAME STATUS LOG
    local ok not skipped
    skipped=$(grep -cE '^(not )?ok .*# *[sS][kK][iI][pP]' "$3")
    ok=$(grep -cE '^ok ' "$3")
    not=$(grep -cE '^not ok ' "$3")
    ok=$((ok - $(grep -cE '^ok .*# *[sS][kK][iI][pP]' "$3")))
    not=$((not - $(grep -cE '^not ok .*# *[sS][kK][iI][pP]' "$3")))
    if [ "$2" -ne 0 ] && [ "$not" -eq 0 ] || [ $((ok + not + skipped)) -eq 0 ]; then
        not=$((not + 1))
        echo "$1: ended with status $2 after $ok tests"
    fi
    pass=$((pass + ok)) fail=$((fail + not)) skip=$((skip + skipped))
    if [ "$not" -gt 0 ]; then
        echo "FAILED $1 (log: $3)"
        grep -A12 -E '^not ok ' "$3" | head -60
    fi
    grep -E 'skipped: ' "$3" | sort -u | sed "s|^|  $1: |"
}

for t in "$build"/tests/unit/test_* "$build"/tests/ops/test_*; do
    [ -x "$t" ] && [[ $t != *.[od] ]] && [[ $t =~ $pattern ]] || continue
    name=${t#"$build"/tests/}
    log=$logs/$(basename "$t").tap
    CMOCKA_MESSAGE_OUTPUT=TAP timeout 900 "$t" >"$log" 2>&1
    count "$name" $? "$log"
done
if [ "${SQ_TESTS:-all}" = all ]; then
    for t in tests/cli/*.bats tests/pipe/*.bats tests/recipes/*.bats; do
        [ -f "$t" ] && [[ $t =~ $pattern ]] || continue
        log=$logs/$(basename "$t").tap
        timeout 1500 bats --tap "$t" >"$log" 2>&1 </dev/null
        count "$t" $? "$log"
    done
fi
echo "$pass passed, $fail failed, $skip skipped"
[ "$fail" -eq 0 ] && [ "$pass" -gt 0 ]
