#!/usr/bin/env bash
# The ablation of the SliderQuant paper on a model of yours: which layers are learned together, in which order.
#   compare-schedules.sh MODEL TEXT TEST SCHEME [sq-window options]
# Prints a Markdown table of perplexities; SAMPLES and LENGTH (of the calibration), TEST_LENGTH,
# WINDOWS (of the test) and SEED in the environment override what is in common.sh.
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ $# -ge 4 ] || usage
scheme=$4
compare_on "$1" "$2" "$3"
shift 4

row() { # row NAME SCHEDULE MODEL-or-stream TIME
    printf '| %s | %s | %s | %s |\n' "$1" "$2" "$(figure "$3")" "$4"
}

run() { # run NAME SCHEDULE sq-window options
    local name=$1 schedule=$2 start=$SECONDS
    shift 2
    sq-window --in "$work/calib.sq" --scheme "$scheme" --schedule "$schedule" --seed "$seed" "$@" |
        sq-merge --out "$work/merged.sq"
    row "$name" "$schedule" "$work/merged.sq" "$((SECONDS - start)) s"
}

printf '| %s | schedule | perplexity | time |\n| --- | --- | --- | --- |\n' "$scheme"
row float - "$work/calib.sq" ""
run "plain rounding" layer --learn none "$@"
run "layer by layer" layer "$@"
run "fixed sliding" fixed:2,1 "$@"
run "expanding" slider:4,0,2,1 "$@"
run "contracting" slider:0,4,2,1 "$@"
run "expanding and contracting" slider:4,4,2,1 "$@"
