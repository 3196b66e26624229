#!/usr/bin/env python3
"""Directories of sq-pack in transformers: they load without a missing or unexpected weight, hold the stream's values, cut texts
like the original's tokenizer, and have sq-eval's perplexity of the same stream within 1e-4."""
import glob
import json
import os
import sys
import tempfile

import torch
from transformers import AutoTokenizer

from peers.packed import GOLDENS, Tap, merged, near, pack, smollm2, sq_eval
from peers.torch_model import load, torch_perplexity

TEXT = "examples/tiny/test.txt"
LENGTH, WINDOWS, SMOL_WINDOWS = 512, 12, 4


def text_ids(folder):
    return AutoTokenizer.from_pretrained(folder)(open(TEXT, encoding="utf-8").read())["input_ids"]


def tiny(scheme, work):
    stream = merged("examples/tiny", scheme, work)
    folder = pack(stream, f"{work}/{scheme}", "--format", "hf")
    ids = text_ids(folder)
    if ids != text_ids("examples/tiny"):
        raise AssertionError("the tokenizer cuts the text differently")
    value = torch_perplexity(folder, ids, LENGTH, WINDOWS)
    by_eval = sq_eval(stream, ids[:LENGTH * WINDOWS], LENGTH)
    return f"perplexity {value:.6f}" if by_eval is None else near(value, by_eval, 1e-4, "perplexity")


def same(folder, other, rounded=False):
    a, b = load(folder).state_dict(), load(other).state_dict()
    if a.keys() != b.keys():
        raise AssertionError("other tensors")
    for k in a:
        want = b[k].bfloat16().float() if rounded else b[k]
        if not torch.equal(a[k], want):
            raise AssertionError(f"{k} differs")
    return f"{len(a)} tensors equal"


def sharded(work):
    stream = merged("examples/tiny", "W4A16", work)
    one = pack(stream, f"{work}/one", "--format", "hf")
    many = pack(stream, f"{work}/many", "--format", "hf", "--shard-size", "3000000")
    n = len(glob.glob(f"{many}/model-*.safetensors"))
    if n < 5:
        raise AssertionError(f"{n} files")
    return f"{n} files, " + same(many, one)


def rounded(work):
    stream = merged("examples/tiny", "W3A16", work)
    full = pack(stream, f"{work}/full", "--format", "hf")
    half = pack(stream, f"{work}/half", "--format", "hf", "--dtype", "bf16")
    if json.load(open(f"{half}/config.json"))["dtype"] != "bfloat16":
        raise AssertionError("config.json names another dtype")
    return same(half, full, rounded=True)


def architecture(name, work):
    stream = merged(f"{GOLDENS}/{name}", "W4A16", work)
    model = load(pack(stream, f"{work}/{name}", "--format", "hf"))
    return f"{sum(p.numel() for p in model.parameters())} parameters"


def smol(path, work):
    stream = merged(path, "W3A16", work)
    folder = pack(stream, f"{work}/smol", "--format", "hf")
    source = AutoTokenizer.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path))
    ids = source(open(TEXT, encoding="utf-8").read())["input_ids"][:LENGTH * SMOL_WINDOWS]
    return near(torch_perplexity(folder, ids, LENGTH, SMOL_WINDOWS), sq_eval(stream, ids, LENGTH), 1e-4, "perplexity")


def main():
    path, why = smollm2()
    torch.set_num_threads(1)
    tap = Tap()
    with tempfile.TemporaryDirectory() as work:
        for scheme in ["W2A16", "W3A16g64", "W4A16"]:
            tap.run(f"tiny {scheme}", lambda: tiny(scheme, work))
        tap.run("in files of 3 MB", lambda: sharded(work))
        tap.run("in bf16", lambda: rounded(work))
        for name in ["llama3", "qwen2", "qwen3", "qwen3-moe", "llama-48"]:
            tap.run(name, lambda: architecture(name, work))
        tap.run("SmolLM2 W3A16 from a GGUF file", lambda: smol(path, work), skip=why)
    return tap.finish()


sys.exit(main())
