#!/usr/bin/env bash
# The main job on the small model of this repository, from a bare Debian machine: packages, build, float and plainly
# rounded perplexity, a learned 2-bit model, its file, and what to try next. Minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck disable=SC2046
sh mk/packages.sh $(cat mk/build-packages.txt)
make -s -j"$(nproc)" all
. pipelines/common.sh
model=examples/tiny scheme=${SCHEME:-W2A16} out=${OUT:-build/demo/tiny-$(echo "${SCHEME:-W2A16}" | tr '[:upper:]' '[:lower:]').gguf}
mkdir -p "$(dirname "$out")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

figure() { perplexity $model/test.txt 512 "$1"; }
bytes() { du -sb "$1" | cut -f1; }

echo "sq: $scheme of $model"
sq-load $model | sq-calib --text $model/calib.txt --samples "${SAMPLES:-32}" --length 512 --out "$work/calib.sq"
float=$(figure $model)
sq-window --in "$work/calib.sq" --scheme "$scheme" --learn none | sq-merge --out "$work/rtn.sq"
rtn=$(figure "$work/rtn.sq")
started=$SECONDS
sq-window --in "$work/calib.sq" --scheme "$scheme" --epochs "${EPOCHS:-8}" --progress | sq-merge --embed W8g32 --out "$work/learned.sq"
spent=$((SECONDS - started))
sq-pack --in "$work/learned.sq" --out "$out" -v
learned=$(figure "$out")

printf '\n%-28s %16s %14s\n' "" perplexity bytes
printf '%-28s %16s %14d\n' "float (bf16)" "$float" "$(bytes $model/model.safetensors)"
printf '%-28s %16s\n' "$scheme, plain rounding" "$rtn"
printf '%-28s %16s %14d   learned in %d s\n' "$scheme, sq-window" "$learned" "$(bytes "$out")" "$spent"
cat <<END

written: $out (llama.cpp loads it)
next:    pipelines/quantize.sh YOUR-MODEL YOUR-TEXT W3A16 model.gguf
         SCHEME=W3A16 pipelines/demo.sh        more epochs: EPOCHS=20 pipelines/demo.sh
         sq-window --help; man pages: make man; README.md
END
