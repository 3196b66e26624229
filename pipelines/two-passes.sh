#!/usr/bin/env bash
# Quantize a model with both passes of its windows at the same time: two-passes.sh MODEL TEXT SCHEME OUT [sq-window options]
#   MODEL, TEXT, SCHEME, OUT  as for quantize.sh; the same file as in one process
# SECOND runs the second pass elsewhere: "ssh host" where sq-window is on that host's PATH, "" here. With both here, give each its
# processors: --threads. SAMPLES, LENGTH, EMBED (W8g32 or empty) and SEED in the environment override what is below.
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ $# -ge 4 ] || usage
model=$1 text=$2 scheme=$3 out=${4%/}
shift 4
embed=()
[ -z "${EMBED:-}" ] || embed=(--embed "$EMBED")
format=()
case $out in *.gguf | *.sq) ;; *) format=(--format hf) ;; esac
# ssh makes one string of a command's words
window=(sq-window --scheme "$scheme" --seed "${SEED:-0}" "$@")
printf -v second '%q ' "${window[@]}" --rate 1

# SECOND may have arguments
# shellcheck disable=SC2086
sq-load "$model" |
    sq-calib --text "$text" --samples "${SAMPLES:-128}" --length "${LENGTH:-2048}" --seed "${SEED:-0}" |
    "${window[@]}" --rate 0.5 |
    ${SECOND:-bash -c} "$second" |
    sq-merge ${embed[@]+"${embed[@]}"} |
    sq-pack ${format[@]+"${format[@]}"} --out "$out"
