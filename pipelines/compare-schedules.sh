#!/usr/bin/env bash
# The ablation of the SliderQuant paper on a model of yours: which layers are learned together, in which order.
#   compare-schedules.sh MODEL TEXT TEST SCHEME [sq-window options]
# Prints a Markdown table of perplexities; SAMPLES, LENGTH, WINDOWS (of the test) and SEED in the environment override
# what is below.
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ $# -ge 4 ] || usage
model=$1 text=$2 test=$3 scheme=$4
shift 4
length=${LENGTH:-2048} seed=${SEED:-0}
limit=()
[ -z "${WINDOWS:-}" ] || limit=(--windows "$WINDOWS")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

row() { # row NAME SCHEDULE MODEL-or-stream TIME
    printf '| %s | %s | %s | %s |\n' "$1" "$2" "$(perplexity "$test" "$length" "$3" ${limit[@]+"${limit[@]}"})" "$4"
}

run() { # run NAME SCHEDULE sq-window options
    local name=$1 schedule=$2 start=$SECONDS
    shift 2
    sq-window --in "$work/calib.sq" --scheme "$scheme" --schedule "$schedule" --seed "$seed" "$@" |
        sq-merge --out "$work/merged.sq"
    row "$name" "$schedule" "$work/merged.sq" "$((SECONDS - start)) s"
}

sq-load "$model" | sq-calib --text "$text" --samples "${SAMPLES:-32}" --length "$length" --seed "$seed" --out "$work/calib.sq"
printf '| %s | schedule | perplexity | time |\n| --- | --- | --- | --- |\n' "$scheme"
row float - "$work/calib.sq" ""
run "plain rounding" layer --learn none "$@"
run "layer by layer" layer "$@"
run "fixed sliding" fixed:2,1 "$@"
run "expanding" slider:4,0,2,1 "$@"
run "contracting" slider:0,4,2,1 "$@"
run "expanding and contracting" slider:4,4,2,1 "$@"
