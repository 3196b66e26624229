#!/usr/bin/env python3
"""Perplexity of one float model on the same ids: sq-eval, transformers (PyTorch) in f32 and bf16, llama.cpp.

    bench/eval.py --model DIR|GGUF [--length N] [--windows N] [--threads N] [--repeats N]

sq-eval reads a GGUF file of f32 weights that sq-pack writes of the model; llama.cpp reads the same file, transformers the
Hugging Face directory of the same weights. Every program runs in a process of its own, with few and with many windows:
the difference is the time of the windows, without start and loading. Its memory is the peak of the larger run.
The order alternates. Prints a table in Markdown; --json FILE appends an object."""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("SQ_BUILD", os.path.join(HERE, "..", "build", "gcc"))


def sq_child(o):
    with open(f"{o.child}/ids.json") as f:
        ids = json.load(f)[:o.length * o.windows]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(ids, f)
        f.flush()
        start = time.monotonic()
        out = subprocess.run([f"{BUILD}/bin/sq-eval", "-q", "--ids", f.name, "--length", str(o.length), "--threads",
                              str(o.threads), "--precision", "bf16" if o.who == "sq bf16" else "f32", "--json",
                              f"{o.child}/model.gguf"], check=True, capture_output=True, text=True).stdout
        seconds = time.monotonic() - start
    return seconds, json.loads(out.splitlines()[0])["value"], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def torch_child(o):
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(o.threads)
    dtype = torch.bfloat16 if o.who == "torch bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(f"{o.child}/hf", dtype=dtype, attn_implementation="eager").eval()
    with open(f"{o.child}/ids.json") as f:
        ids = torch.tensor(json.load(f)[:o.length * o.windows]).view(o.windows, o.length)
    start, nll = time.monotonic(), []
    with torch.no_grad():
        for w in ids:
            logits = model(w[None]).logits[0, :-1].float()
            nll.append(torch.nn.functional.cross_entropy(logits, w[1:]).item())
    seconds = time.monotonic() - start
    return seconds, float(torch.tensor(nll).double().mean().exp()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def llama_child(o):
    sys.path.insert(0, os.path.join(HERE, "..", "tests", "long"))
    from peers.llama import Model, nll
    import numpy as np
    with open(f"{o.child}/ids.json") as f:
        ids = json.load(f)
    model = Model(f"{o.child}/model.gguf", o.length, o.threads)
    each, seconds = [], 0.0
    for i in range(o.windows):
        part = ids[i * o.length:(i + 1) * o.length]
        start = time.monotonic()
        logits = model.decode(part)  # its own work ends here: what follows is numpy's
        seconds += time.monotonic() - start
        each.append(nll(logits.astype(np.float64), part))
    return seconds, float(np.exp(np.mean(each))), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


WHO = {"sq f32": sq_child, "sq bf16": sq_child, "torch f32": torch_child, "torch bf16": torch_child, "llama.cpp f32": llama_child}


def run(work, who, windows, o):
    out = subprocess.run([sys.executable, os.path.abspath(__file__), "--child", work, "--who", who, "--windows", str(windows),
                          "--length", str(o.length), "--threads", str(o.threads)], check=True, capture_output=True, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def prepare(work, o):
    """the model as GGUF and as a directory, in f32; ids of the text by the model's own tokenizer"""
    model = f"{work}/model.sq"
    with open(model, "wb") as f:
        subprocess.run([f"{BUILD}/bin/sq-load", "-q", o.model], stdout=f, check=True)
    merged = f"{work}/merged.sq"
    subprocess.run([f"{BUILD}/bin/sq-merge", "-q", "-s", "W16A16", "-i", model, "-o", merged], check=True)
    subprocess.run([f"{BUILD}/bin/sq-pack", "-q", "--in", merged, "--out", f"{work}/model.gguf", "--type", "f32"], check=True)
    subprocess.run([f"{BUILD}/bin/sq-pack", "-q", "--in", merged, "--out", f"{work}/hf", "--format", "hf"], check=True)
    os.unlink(model)
    os.unlink(merged)
    vocab = json.load(open(f"{work}/hf/config.json"))["vocab_size"]
    need = o.length * o.windows
    with open(f"{work}/ids.json", "w") as f:  # any ids will do for time: a fixed sequence that visits the vocabulary
        json.dump([(i * 7919 + i // 13) % vocab for i in range(need)], f)


def measure(o):
    """medians of seconds a window, and the last runs"""
    peers, few = o.peers.split(","), max(o.windows // 4, 1)
    times, last = {k: [] for k in peers}, {}
    with tempfile.TemporaryDirectory() as work:
        prepare(work, o)
        for r in range(o.repeats):
            for who in peers if r % 2 == 0 else peers[::-1]:
                less = run(work, who, few, o)
                last[who] = run(work, who, o.windows, o)
                times[who].append((last[who]["seconds"] - less["seconds"]) / (o.windows - few))
    return {"bench": "eval", "model": os.path.basename(o.model.rstrip("/")), "length": o.length, "windows": o.windows,
            "threads": o.threads, "rounds": o.repeats, "seconds_per_window": {k: statistics.median(v) for k, v in times.items()},
            "runs": last}


def table(m):
    s, runs = m["seconds_per_window"], m["runs"]
    first = next(iter(s))
    yield f"| {m['model']}, windows of {m['length']} | time against {first} | perplexity of these ids | peak memory |\n| --- | --- | --- | --- |"
    for who in s:
        yield f"| {who} | {s[who] / s[first]:.2f} × | {runs[who]['perplexity']:.6g} | {runs[who]['peak_bytes'] / 1e6:.0f} MB |"


def options(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model")
    p.add_argument("--length", type=int, default=512)
    p.add_argument("--windows", type=int, default=12, help="the larger run; the smaller has a quarter")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--peers", default=",".join(WHO), help="which, separated by commas")
    p.add_argument("--json")
    p.add_argument("--child", help=argparse.SUPPRESS)
    p.add_argument("--who", help=argparse.SUPPRESS)
    return p.parse_args(argv)


def main():
    o = options()
    if o.child:
        seconds, value, peak = WHO[o.who](o)
        print(json.dumps({"seconds": seconds, "perplexity": value, "peak_bytes": peak * 1024}))
        return 0
    m = measure(o)
    if o.json:
        with open(o.json, "a") as f:
            f.write(json.dumps(m) + "\n")
    print("\n".join(table(m)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
