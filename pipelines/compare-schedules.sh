#!/usr/bin/env bash
# The ablation of the SliderQuant paper on a model of yours: which layers are learned together, in which order.
#   compare-schedules.sh MODEL TEXT TEST SCHEME [sq-window options]
# Prints a Markdown table of perplexities; SAMPLES, LENGTH, WINDOWS and SEED in the environment override what is below.
set -euo pipefail
# the programs of a pipeline share the processors: a thread that waits must not spin
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
if [ $# -lt 4 ]; then
    sed -n '2,4s/^# *//p' "$0" >&2
    exit 2
fi
model=$1 text=$2 test=$3 scheme=$4
shift 4
here=$(cd "$(dirname "$0")" && pwd)
[ -x "$here/../build/bin/sq-load" ] && PATH="$here/../build/bin:$PATH"
length=${LENGTH:-2048} seed=${SEED:-0}
limit=()
[ -z "${WINDOWS:-}" ] || limit=(--windows "$WINDOWS")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

perplexity() { # perplexity MODEL-or-stream
    sq-eval --text "$test" --length "$length" ${limit[@]+"${limit[@]}"} --json "$1" 2>/dev/null |
        sed -n 's/.*"metric": *"perplexity", *"value": *\([0-9.eE+-]*\).*/\1/p'
}

sq-load "$model" | sq-calib --text "$text" --samples "${SAMPLES:-32}" --length "$length" --seed "$seed" --out "$work/calib.sq"

run() { # run NAME SCHEDULE sq-window options
    local name=$1 schedule=$2 start=$SECONDS
    shift 2
    sq-window --in "$work/calib.sq" --scheme "$scheme" --schedule "$schedule" --seed "$seed" "$@" |
        sq-merge --out "$work/merged.sq"
    printf '| %s | %s | %s | %s |\n' "$name" "$schedule" "$(perplexity "$work/merged.sq")" "$((SECONDS - start)) s"
}

printf '| %s | schedule | perplexity | time |\n| --- | --- | --- | --- |\n' "$scheme"
printf '| float | - | %s | |\n' "$(perplexity "$work/calib.sq")"
run "plain rounding" layer --learn none "$@"
run "layer by layer" layer "$@"
run "fixed sliding" fixed:2,1 "$@"
run "expanding" slider:4,0,2,1 "$@"
run "contracting" slider:0,4,2,1 "$@"
run "expanding and contracting" slider:4,4,2,1 "$@"
