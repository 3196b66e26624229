#!/usr/bin/env bash
# Try many settings on one calibration, anywhere: sweep.sh MODEL TEXT TEST VARIANTS WORK
#   TEST  text for the perplexity      VARIANTS  a file, on every line the options of one sq-window: -s W2A16 --seed 1 --epochs 20
#   WORK  folder for everything, on a disk that all hosts share; what is in it already is not made again
# Prints a Markdown table. RUN as for fan-out.sh; SAMPLES, LENGTH (of the calibration), TEST_LENGTH and WINDOWS (of the
# test) in the environment override what is below.
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ $# -eq 5 ] || usage
model=$1 text=$2 test=$(realpath "$3") variants=$4 work=$5
length=${LENGTH:-2048}
mkdir -p "$work"
[ -e "$work/calib.sq" ] ||
    sq-load "$model" | sq-calib --text "$text" --samples "${SAMPLES:-32}" --length "$length" --out "$work/calib.sq"
eval=(sq-eval --quiet --text "$test" --length "${TEST_LENGTH:-$length}" --json)
[ -z "${WINDOWS:-}" ] || eval+=(--windows "$WINDOWS")
printf -v measure '%q ' "${eval[@]}"
id_of() { sha256sum <<<"$measure $1" | cut -c 1-12; } # of all that makes the figure: VARIANTS and TEST may change
while read -r options || [ -n "$options" ]; do
    [ -n "$options" ] || continue
    id=$(id_of "$options")
    printf '%s\t%s\t%s\t%s\n' "$id" calib.sq \
        "sq-window -q -i calib.sq $options | sq-merge -q -o $id.sq && ${measure}$id.sq >$id.tmp && mv $id.tmp $id.json && rm $id.sq" "$id.json"
done <"$variants" >"$work/plan.tsv"
# RUN may have arguments
# shellcheck disable=SC2086
"$(dirname "$0")"/${RUN:-plan-run.sh} "$work/plan.tsv" >&2
printf '| options | perplexity |\n| --- | --- |\n'
while read -r options || [ -n "$options" ]; do
    [ -n "$options" ] || continue
    line=$(grep '"metric": *"perplexity"' "$work/$(id_of "$options").json")
    printf '| %s | %.2f ± %.2f |\n' "$options" "$(field value <<<"$line")" "$(field stderr <<<"$line")"
done <"$variants"
