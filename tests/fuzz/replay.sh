#!/usr/bin/env bash
# Runs every fuzz target over its corpus (tests/fuzz/corpus/<target>/*) and over mutations of it: replay.sh BUILD_DIR
set -u
cd "$(dirname "$0")/../.."
pass=0 fail=0
for t in "$1"/fuzz/fuzz_*; do
    [ -x "$t" ] && [[ $t != *.[od] ]] || continue
    name=$(basename "$t")
    if timeout 300 "$t" tests/fuzz/corpus/"$name" >build/replay.log 2>&1; then
        pass=$((pass + 1))
    else
        fail=$((fail + 1))
        echo "FAILED $name"
        tail -20 build/replay.log
    fi
done
echo "$pass passed, $fail failed, 0 skipped"
[ "$fail" -eq 0 ] && [ "$pass" -gt 0 ]
