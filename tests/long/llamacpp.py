#!/usr/bin/env python3
"""GGUF files of sq-pack in llama.cpp: they load, cut texts as transformers does, and have the perplexity of the same weights
elsewhere within 0.5 %."""
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoTokenizer

from peers.llama import Model, perplexity
from peers.packed import GOLDENS, Tap, merged, near, pack, smollm2, sq_eval
from peers.torch_model import torch_logits, torch_perplexity

TEXT = "examples/tiny/test.txt"
LENGTH, WINDOWS, SMOL_WINDOWS = 512, 4, 8


def tokens_of(gguf, reference, length=LENGTH, repack=True):
    """ids of the text in llama.cpp, after a comparison with the reference's"""
    model = Model(gguf, length, repack=repack)
    text = open(TEXT, encoding="utf-8").read()
    ids = model.tokenize(text)
    if reference is not None and ids != reference:
        at = next(i for i, (a, b) in enumerate(zip(ids + [-1], reference + [-1])) if a != b)
        raise AssertionError(f"token {at} of {len(reference)}: {ids[at:at + 4]}, not {reference[at:at + 4]}")
    return model, ids


def tiny(scheme, work, *flags):
    stream = merged("examples/tiny", scheme, work, *flags)
    gguf = pack(stream, f"{work}/{scheme}.gguf")
    folder = pack(stream, f"{work}/{scheme}", "--format", "hf")
    reference = AutoTokenizer.from_pretrained(folder)(open(TEXT, encoding="utf-8").read())["input_ids"]
    model, ids = tokens_of(gguf, reference)
    value = perplexity(model, ids, LENGTH, WINDOWS)
    model.close()
    said = near(value, torch_perplexity(folder, ids, LENGTH, WINDOWS), 0.005, "perplexity")
    by_eval = sq_eval(gguf, ids[:LENGTH * WINDOWS], LENGTH)  # the file: no format says that W4A4 rounds activations
    return said + ("" if by_eval is None else ", " + near(value, by_eval, 0.005, "sq-eval"))


def architecture(name, work, scheme, limit, *options):
    """random weights have no perplexity to speak of, so logits are compared: |a - b|^2 / |b|^2"""
    stream = merged(f"{GOLDENS}/{name}", scheme, work)
    gguf = pack(stream, f"{work}/{name}.gguf", "--no-tokenizer", *options)
    folder = pack(stream, f"{work}/{name}-{limit}", "--format", "hf")
    ids = np.random.default_rng(1).integers(3, 256, 300).tolist()
    model = Model(gguf, len(ids))
    got, want = model.logits(ids), torch_logits(folder, ids)
    model.close()
    error = ((got - want) ** 2).sum() / (want ** 2).sum()
    if not error < limit:
        raise AssertionError(f"logits differ by {error:.2e}, limit {limit:.0e}")
    return f"logits differ by {error:.1e}"


def smol(path, work, kind, limit, *options, repack=True):
    """f32 shows that the file holds the stream's weights; the other types add what llama.cpp itself rounds: activations to 8 bits,
    in blocks of 32 for q5_0 and of 256 for q4_k, which this model's few huge channels notice. A llama.cpp with a BLAS multiplies
    floats: there q4_k agrees as f32 does."""
    stream = merged(path, "W4A16", work, *([] if kind == "f32" else ["--embed=W8g32"]))
    gguf = pack(stream, f"{work}/smol.gguf", *options)
    source = Model(path, LENGTH)
    reference = source.tokenize(open(TEXT, encoding="utf-8").read())
    source.close()
    model, ids = tokens_of(gguf, reference, repack=repack)
    value = perplexity(model, ids, LENGTH, SMOL_WINDOWS)
    model.close()
    return near(value, sq_eval(stream, ids[:LENGTH * SMOL_WINDOWS], LENGTH), limit, f"{kind}: perplexity")


def by_blas(folder):
    """the same comparison in a process that imports the llama-cpp-python of that folder"""
    env = dict(os.environ, PYTHONPATH=os.path.abspath(folder))
    p = subprocess.run([sys.executable, os.path.abspath(__file__), "--blas"], env=env, capture_output=True, text=True)
    if p.returncode:
        raise AssertionError(p.stderr.strip().splitlines()[-1])
    return p.stdout.strip()


def main():
    torch.set_num_threads(1)
    blas = os.environ.get("SQ_LLAMA_BLAS")
    if "--blas" in sys.argv:
        with tempfile.TemporaryDirectory() as work:
            print(smol(smollm2()[0], work, "q4_k", 1e-3, repack=False))
        return 0
    tap = Tap()
    path, why = smollm2()
    with tempfile.TemporaryDirectory() as work:
        for scheme, flags in [("W2A16", ()), ("W3A16", ()), ("W3A16g64", ()), ("W4A16", ()), ("W4A16g32s", ("--embed=W8g32",)),
                              ("W4A16g128", ()), ("W5A16", ()), ("W8A16s", ()), ("W4A4", ())]:
            tap.run(f"tiny {scheme} {' '.join(flags)}", lambda: tiny(scheme, work, *flags))
        for name in ["llama3", "qwen2", "qwen3"]:
            # floats: only the head is rounded, where it is stored as bf16, whose products round activations too
            tap.run(f"{name} in f32", lambda: architecture(name, work, "W4A16g32", 1e-5, "--type", "f32"))
            tap.run(f"{name} W4A16g32", lambda: architecture(name, work, "W4A16g32", 1e-3))
        for kind, limit, options in [("f32", 1e-3, ("--type", "f32")), ("q5_0", 0.005, ("--type", "q5_0")), ("q4_k", 0.01, ())]:
            tap.run(f"SmolLM2 W4A16 in {kind}", lambda: smol(path, work, kind, limit, *options), skip=why)
        tap.run("SmolLM2 W4A16 in q4_k, llama.cpp with a BLAS", lambda: by_blas(blas),
                skip=why or ("" if blas else "SQ_LLAMA_BLAS names no folder with such a llama-cpp-python (README.md)"))
    return tap.finish()


sys.exit(main())
