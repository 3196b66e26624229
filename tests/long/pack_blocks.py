#!/usr/bin/env python3
"""Every pair of code and zero point in every block type: our blocks, dequantised by the gguf package, are our values."""
import subprocess
import sys

import numpy as np
import gguf
from gguf.quants import dequantize

program = sys.argv[1] if len(sys.argv) > 1 else "build/gcc/gen/pack_blocks"
seen, rows_checked = {}, 0
out = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split("\n")
at = 0
while out[at]:
    name, rows, cols = out[at].split()
    at += 1
    qtype = gguf.GGMLQuantizationType[name.upper()]
    blocks = np.stack([np.frombuffer(bytes.fromhex(x), np.uint8) for x in out[at:at + 2 * int(rows):2]])
    want = np.stack([np.frombuffer(bytes.fromhex(x), np.float32) for x in out[at + 1:at + 2 * int(rows):2]])
    at += 2 * int(rows)
    with np.errstate(all="ignore"):
        got = dequantize(blocks, qtype).reshape(int(rows), int(cols))
    if not np.array_equal(got, want):
        r, c = np.argwhere(got != want)[0]
        sys.exit(f"{name}: row {r} column {c}: {got[r, c]!r}, not {want[r, c]!r}")
    seen[name] = seen.get(name, 0) + int(rows)
print("exact in gguf.quants.dequantize, rows: " + ", ".join(f"{k} {v}" for k, v in sorted(seen.items())))
sys.exit(0 if {"q2_k", "q3_k", "q4_0", "q4_k", "q5_0", "q5_k", "q6_k", "q8_0", "f32", "f16"} <= set(seen) else 1)
