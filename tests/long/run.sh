#!/usr/bin/env bash
# The long checks: sq against transformers, tokenizers, gguf and llama.cpp on the same inputs: run.sh BUILD_DIR [PATTERN]
# SQ_PYTHON names a Python that has tests/long/requirements.txt; else a virtual environment is made in build/peer, once
# (gigabytes; llama-cpp-python is compiled). Every script prints TAP; ends with "N passed, N failed, N skipped".
set -u
cd "$(dirname "$0")/../.."
build=$1 pattern=${2:-.}
export PATH="$PWD/$build/bin:$PATH" SQ_BUILD="$PWD/$build"
if [ -z "${SQ_PYTHON:-}" ]; then
    SQ_PYTHON=$PWD/build/peer/bin/python
    if [ ! -x "$SQ_PYTHON" ]; then
        python3 -m venv build/peer && "$SQ_PYTHON" -m pip install -q -r tests/long/requirements.txt || exit 1
    fi
fi
export SQ_PYTHON
mkdir -p "$build/test-logs"
pass=0 fail=0 skip=0
for t in tests/long/*.py tests/long/*.bats; do
    [ -f "$t" ] && [[ $t =~ $pattern ]] || continue
    log=$build/test-logs/$(basename "$t").tap
    case $t in
    *.py) "$SQ_PYTHON" "$t" >"$log" 2>&1 ;;
    *.bats) bats --tap "$t" >"$log" 2>&1 </dev/null ;;
    esac
    status=$?
    s=$(grep -cE '^(not )?ok .*# *(SKIP|skip)' "$log")
    n=$(($(grep -cE '^not ok ' "$log")))
    o=$(($(grep -cE '^ok ' "$log") - s))
    if [ "$status" -ne 0 ] && [ "$n" -eq 0 ] || [ $((o + n + s)) -eq 0 ]; then n=$((n + 1)); fi
    echo "$t: $o ok, $n not ok, $s skipped"
    [ "$n" -eq 0 ] || tail -25 "$log"
    pass=$((pass + o)) fail=$((fail + n)) skip=$((skip + s))
done
echo "$pass passed, $fail failed, $skip skipped"
[ "$fail" -eq 0 ] && [ "$pass" -gt 0 ]
