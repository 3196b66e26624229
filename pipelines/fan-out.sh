#!/usr/bin/env bash
# Quantize a model in blocks of layers that are learned independently, anywhere: fan-out.sh MODEL TEXT SCHEME LAYERS OUT WORK [sq-window options]
#   MODEL, TEXT, SCHEME, OUT  as for quantize.sh          LAYERS  of a block: 4
#   WORK  folder for jobs and results, on a disk that all hosts share; with jobs in it, those are gone on with
# RUN runs the plan: "plan-run.sh" here, one after the other, "slurm/plan-run.sh" on a cluster. SAMPLES, LENGTH, EMBED
# (W8g32 or empty) and SEED in the environment override what is below.
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ $# -ge 6 ] || usage
model=$1 text=$2 scheme=$3 layers=$4 out=$5 work=$6
shift 6
embed=()
[ -z "${EMBED:-}" ] || embed=(--embed "$EMBED")
mkdir -p "$work"
[ -e "$work/calib.sq" ] ||
    sq-load "$model" | sq-calib --text "$text" --samples "${SAMPLES:-128}" --length "${LENGTH:-2048}" \
        --seed "${SEED:-0}" --out "$work/calib.sq"
[ -e "$work/jobs/plan.tsv" ] ||
    sq-window --in "$work/calib.sq" --scheme "$scheme" --schedule "blocks:$layers" --seed "${SEED:-0}" "$@" --jobs "$work/jobs"
# RUN may have arguments
# shellcheck disable=SC2086
"$(dirname "$0")"/${RUN:-plan-run.sh} "$work/jobs/plan.tsv"
sq-merge ${embed[@]+"${embed[@]}"} "$work"/jobs/*.out <"$work/calib.sq" | sq-pack --out "$out"
