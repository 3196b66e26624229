#!/usr/bin/env bash
# Quantize a model: quantize.sh MODEL TEXT SCHEME OUT [sq-window options]
#   MODEL   Hugging Face directory or GGUF file          TEXT  calibration text, plain or JSON lines
#   SCHEME  W2A16, W3A16g128, W4A4, ...                  OUT   model.gguf, model.sq, or a directory (Hugging Face)
# First it looks whether everything will go through, and says time, memory and disk. What is learned is kept in OUT.work until OUT
# is complete: after a crash or a kill the same command goes on.
# SAMPLES, LENGTH, EMBED (W8g32 or empty), WORK (a folder in place of OUT.work) and SEED in the environment override what is below.
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ $# -ge 4 ] || usage
model=$1 text=$2 scheme=$3 out=${4%/}
shift 4
seed=${SEED:-0} work=${WORK:-$out.work}
embed=()
[ -z "${EMBED:-}" ] || embed=(--embed "$EMBED")
format=()
case $out in *.gguf | *.sq) ;; *) format=(--format hf) ;; esac

calibrated() {
    sq-load "$model" |
        sq-calib --text "$text" --samples "${SAMPLES:-128}" --length "${LENGTH:-2048}" --seed "$seed"
}
window() { sq-window --scheme "$scheme" --seed "$seed" --work "$work" "$@"; }
merge() { sq-merge ${embed[@]+"${embed[@]}"}; }
pack() { sq-pack ${format[@]+"${format[@]}"} --out "$out" "$@"; }

# a folder without a finished window is of no use
clean() { rm -f "$work"/lock && rmdir "$work" 2>/dev/null || true; }

if ! compgen -G "$work/stage-*.sq" >/dev/null; then
    # the way without learning: reads all of the model, and packs the same shapes and types
    sq-load "$model" | sq-window --scheme "$scheme" --learn none --schedule layer | merge | pack --dry-run --quiet
    if [ ! -d "$work" ]; then
        mkdir "$work"
        trap clean EXIT
    fi
    # it reads as far as the first layer, so that the programs before it end by SIGPIPE
    (set +o pipefail && calibrated | window --dry-run "$@" >&2)
fi
calibrated | window "$@" | merge | pack
rm -f "$work"/stage-*.sq
clean
