#!/usr/bin/env bash
# Quantize a model: quantize.sh MODEL TEXT SCHEME OUT [sq-window options]
#   MODEL   Hugging Face directory or GGUF file          TEXT  calibration text, plain or JSON lines
#   SCHEME  W2A16, W3A16g128, W4A4, ...                  OUT   model.gguf, model.sq, or a directory (Hugging Face)
# SAMPLES, LENGTH, EMBED (W8g32 or empty), WORK and SEED in the environment override what is below.
set -euo pipefail
# the programs of a pipeline share the processors: a thread that waits must not spin
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
if [ $# -lt 4 ]; then
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
fi
model=$1 text=$2 scheme=$3 out=$4
shift 4
here=$(cd "$(dirname "$0")" && pwd)
[ -x "$here/../build/bin/sq-load" ] && PATH="$here/../build/bin:$PATH"
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
