#!/usr/bin/env bash
# Quantize a model: quantize.sh MODEL TEXT SCHEME OUT [sq-window options]
#   MODEL   Hugging Face directory or GGUF file          TEXT  calibration text, plain or JSON lines
#   SCHEME  W2A16, W3A16g128, W4A4, ...                  OUT   model.gguf, model.sq, or a directory (Hugging Face)
# SAMPLES, LENGTH, EMBED (W8g32 or empty), WORK and SEED in the environment override what is below.
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ $# -ge 4 ] || usage
model=$1 text=$2 scheme=$3 out=$4
shift 4
seed=${SEED:-0}
embed=()
[ -z "${EMBED:-}" ] || embed=(--embed "$EMBED")
format=()
case $out in *.gguf | *.sq) ;; *) format=(--format hf) ;; esac

sq-load "$model" |
    sq-calib --text "$text" --samples "${SAMPLES:-128}" --length "${LENGTH:-2048}" --seed "$seed" |
    sq-window --scheme "$scheme" --seed "$seed" "$@" |
    sq-merge ${embed[@]+"${embed[@]}"} |
    sq-pack ${format[@]+"${format[@]}"} --out "$out"
