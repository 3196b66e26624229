#!/usr/bin/env bash
# What learning brings on a model of yours: plain rounding, layer by layer, the method as published, sq's default.
#   compare-methods.sh MODEL TEXT TEST "SCHEME ..." [sq-window options]
# Prints a Markdown table: perplexity of TEST, processor time and peak memory of sq-window. SAMPLES and LENGTH (of the
# calibration), TEST_LENGTH, WINDOWS (of the test) and SEED in the environment override what is in common.sh.
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ $# -ge 4 ] || usage
schemes=$4
compare_on "$1" "$2" "$3"
shift 4

row() { # row SCHEME NAME MODEL-or-stream COSTS
    printf '| %s | %s | %s | %s |\n' "$1" "$2" "$(figure "$3")" "$4"
}

run() { # run SCHEME NAME sq-window options
    local scheme=$1 name=$2
    shift 2
    rm -f "$work/metrics"
    sq-window --in "$work/calib.sq" --scheme "$scheme" --seed "$seed" --metrics "$work/metrics" "$@" |
        sq-merge --out "$work/merged.sq"
    row "$scheme" "$name" "$work/merged.sq" "$(printf '%.0f s | %.0f MB' "$(field cpu_seconds <"$work/metrics")" \
        "$(($(field peak_bytes <"$work/metrics") / 1000000))")"
}

printf '| scheme | method | perplexity | processor time | peak memory |\n| --- | --- | --- | --- | --- |\n'
row - float "$work/calib.sq" "|"
for scheme in $schemes; do
    run "$scheme" "plain rounding" --learn none
    run "$scheme" "layer by layer" --preset paper --schedule layer --gamma 1 "$@"
    run "$scheme" "--preset paper" --preset paper "$@"
    run "$scheme" default "$@"
done
