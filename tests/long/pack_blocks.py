#!/usr/bin/env python3
"""Every pair of code and zero point in every block type: our blocks, dequantised by the gguf package, are our values."""
import os
import subprocess
import sys

import gguf
import numpy as np
from gguf.quants import dequantize

ALL = {"q2_k", "q3_k", "q4_0", "q4_1", "q4_k", "q5_0", "q5_k", "q6_k", "q8_0", "f32", "f16"}


def groups(lines):
    """type, blocks [rows, bytes], values [rows, cols] of every grid"""
    at = 0
    while lines[at]:
        name, rows, cols = lines[at].split()
        rows = int(rows)
        part = lines[at + 1:at + 1 + 2 * rows]
        at += 1 + 2 * rows
        yield (name, np.stack([np.frombuffer(bytes.fromhex(x), np.uint8) for x in part[0::2]]),
               np.stack([np.frombuffer(bytes.fromhex(x), np.float32) for x in part[1::2]]))


def main():
    program = os.environ.get("SQ_BUILD", "build/gcc") + "/gen/pack_blocks"
    out = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split("\n")
    rows, wrong = dict.fromkeys(sorted(ALL), 0), {}
    for name, blocks, want in groups(out):
        with np.errstate(all="ignore"):
            got = dequantize(blocks, gguf.GGMLQuantizationType[name.upper()]).reshape(want.shape)
        rows[name] += len(want)
        if not np.array_equal(got, want):
            r, c = np.argwhere(got != want)[0]
            wrong.setdefault(name, f"row {r} column {c}: {got[r, c]!r}, not {want[r, c]!r}")
    for n, name in enumerate(rows, 1):
        print(f"{'ok' if rows[name] and name not in wrong else 'not ok'} {n} - {name}: "
              f"{wrong.get(name, f'{rows[name]} rows exact')}")
    print(f"1..{len(rows)}")
    return 1 if wrong or not all(rows.values()) else 0


sys.exit(main())
