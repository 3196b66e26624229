#!/usr/bin/env python3
"""One training step of sq-window against its own matrix products and against PyTorch, side by side in one run.

    bench/window.py [--shape smollm2|llama-7b|tiny] [--batch N] [--tokens N] [--layers N] [--scheme W2A16] [--rank N]
                    [--shards N] [--threads N] [--repeats N] [--peers f32,bf16] [--give-up N]

sq: the median of the epochs of a window of `layers` layers (--metrics). Ceiling: the products of that step alone, by the
same product layer. PyTorch: the oracle (bench/oracle.py), forward, backward and AdamW, in f32 and under bf16 autocast, each
in a process of its own, so that its memory is its own; --give-up N stops one that has taken more than N times sq's time, and its
column says so. The order alternates. Prints a row of Markdown; --json FILE appends an object."""
import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("SQ_BUILD", os.path.join(HERE, "..", "build", "gcc"))
SHAPES = {  # hidden, heads, kv, ffn
    "tiny": (256, 8, 4, 512),
    "smollm2": (576, 9, 3, 1536),
    "llama-7b": (4096, 32, 32, 11008),
    "qwen2.5-7b": (3584, 28, 4, 18944),
    "llama-70b": (8192, 64, 8, 28672),
}
HEAD = ("| window | linears' products alone | with attention's | PyTorch f32 | PyTorch bf16 | memory | PyTorch's | where the time goes |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |")


def prepare(work, o):
    """a model of random weights in that shape, and calibration ids for two batches"""
    hidden, heads, kv, ffn = SHAPES[o.shape]
    subprocess.run([f"{BUILD}/gen/tiny_model", "--layers", str(o.layers), "--hidden", str(hidden), "--heads", str(heads), "--kv-heads",
                    str(kv), "--ffn", str(ffn), "--vocab", "512", "--dtype", "bf16", f"{work}/model"], check=True)
    with open(f"{work}/ids", "w") as f:
        f.write(" ".join(str(i * 7 % 512) for i in range(o.tokens * (o.batch + 2) * 2)))
    load = subprocess.Popen([f"{BUILD}/bin/sq-load", "-q", f"{work}/model"], stdout=subprocess.PIPE)
    subprocess.run([f"{BUILD}/bin/sq-calib", "-q", "--ids", f"{work}/ids", "-n", str(o.batch), "-l", str(o.tokens), "--heldout", "0",
                    "-o", f"{work}/calib.sq"], stdin=load.stdout, check=True)
    load.wait()


def sq_steps(work, o):
    """seconds of each step, seconds of each kind of work, peak bytes"""
    metrics = f"{work}/metrics"
    if os.path.exists(metrics):
        os.unlink(metrics)
    subprocess.run([f"{BUILD}/bin/sq-window", "-q", "-i", f"{work}/calib.sq", "-o", "/dev/null", "-s", o.scheme, "--schedule",
                    f"0-{o.layers - 1}", "--gamma", "1", "--init", "minmax", "--epochs", str(o.steps + 1), "--batch", str(o.batch),
                    "--rank", str(o.rank), "--shards", str(o.shards), "--threads", str(o.threads), "--metrics", metrics], check=True)
    lines = [json.loads(x) for x in open(metrics)]
    done = next(x for x in lines if x["event"] == "done")
    return [x["seconds"] for x in lines if x["event"] == "epoch"][1:], done["work"], done["peak_bytes"]


def ceiling(o):
    env = dict(os.environ, OMP_NUM_THREADS=str(o.threads))
    out = subprocess.run([f"{BUILD}/bench/ceiling", *map(str, (*SHAPES[o.shape], o.batch, o.tokens, o.layers, o.steps)),
                          "codes" if o.scheme == "W4A4" else "bf16"],
                         check=True, capture_output=True, text=True, env=env).stdout
    return json.loads(out)


def torch_steps(work, o, autocast, most):
    """in a child: seconds of each step, peak resident bytes; steps that take longer than `most` seconds together are stopped,
    each took longer than an equal share of that"""
    args = [sys.executable, os.path.abspath(__file__), "--child", work, "--shape", o.shape, "--batch", str(o.batch), "--tokens", str(o.tokens),
            "--scheme", o.scheme, "--rank", str(o.rank), "--layers", str(o.layers), "--threads", str(o.threads), "--steps", str(o.steps)]
    process = subprocess.Popen(args + (["--autocast"] if autocast else []), stdout=subprocess.PIPE, text=True)
    if process.stdout.readline() != "begins\n":
        raise RuntimeError(f"PyTorch's process ended with {process.wait()}")
    start = time.monotonic()
    try:
        out = process.communicate(timeout=most)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return {"seconds": [(time.monotonic() - start) / (o.steps + 1)], "gave_up": True}
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, args)
    return json.loads(out)


def child(o):
    import torch
    sys.path.insert(0, HERE)
    import oracle
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    model = oracle.load_model(f"{o.child}/model")
    weights, acts, group = re.fullmatch(r"W(\d+)A(\d+)(?:g(\d+))?", o.scheme).groups(default="0")
    qc = oracle.scheme(int(weights), int(acts), int(group))
    params = [oracle.init_params(w, model.cfg, qc, rank=o.rank, scaling=qc.abits < 16) for w in model.layers]
    leaves = [t.requires_grad_() for p in params for t in p.values()]
    state = [(torch.zeros_like(t), torch.zeros_like(t)) for t in leaves]
    rope = oracle.rope_table(model.cfg, o.tokens)
    x = torch.randn(o.batch, o.tokens, model.cfg.hidden)
    target = torch.randn_like(x)
    seconds = []
    print("begins", flush=True)
    for i in range(o.steps + 1):
        start = time.monotonic()
        for p in params:
            oracle.keep_alpha(p)
        with torch.autocast("cpu", torch.bfloat16, enabled=o.autocast):
            loss = torch.nn.functional.mse_loss(oracle.run(x, model.layers, params, model.cfg, rope, qc).float(), target)
        grads = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            for t, g, s in zip(leaves, grads, state):
                oracle.adamw(t, g, s, i + 1, 1e-3)
        seconds.append(time.monotonic() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds[1:], "peak_bytes": peak}))


def measure(o):
    """medians of seconds, shares of work, peaks of memory"""
    peers = [f"torch {p}" for p in o.peers.split(",") if p]
    names = ["sq", "ceiling", *peers]
    times = {"sq": [], "linears": [], "attention": [], **{p: [] for p in peers}}
    peak, work_seconds, gave_up = {}, {}, []
    with tempfile.TemporaryDirectory() as work:
        prepare(work, o)
        for r in range(o.repeats):
            for name in names if r % 2 == 0 else names[::-1]:
                if name in gave_up:
                    continue
                if name == "sq":
                    seconds, work_seconds, peak["sq"] = sq_steps(work, o)
                    times[name] += seconds
                elif name == "ceiling":
                    for k, v in ceiling(o).items():
                        times[k] += v
                else:
                    most = o.give_up * (o.steps + 1) * statistics.median(times["sq"]) if o.give_up else None
                    got = torch_steps(work, o, name.endswith("bf16"), most)
                    times[name] += got["seconds"]
                    if "gave_up" in got:
                        gave_up.append(name)
                    else:
                        peak[name] = got["peak_bytes"]
    return {"bench": "window", "shape": o.shape, "scheme": o.scheme, "batch": o.batch, "tokens": o.tokens, "layers": o.layers,
            "rank": o.rank, "shards": o.shards, "threads": o.threads, "rounds": o.repeats, "seconds": {k: statistics.median(v) for k, v in times.items()},
            "gave_up": gave_up, "work": work_seconds, "peak_bytes": peak}


def row(m):
    s, peak, total = m["seconds"], m["peak_bytes"], sum(m["work"].values())
    torch_peak = [v for k, v in peak.items() if k != "sq"]
    many = (f", {m['layers']} layers" if m["layers"] > 1 else "") + (f", in {m['shards']} parts" if m["shards"] > 1 else "")
    return (f"| {m['shape']} {m['scheme']} {m['batch']}×{m['tokens']}{many} | {s['linears'] / s['sq']:.0%} | "
            f"{(s['linears'] + s['attention']) / s['sq']:.0%} | "
            + " | ".join(f"{'> ' if k in m['gave_up'] else ''}{s[k] / s['sq']:.2f} ×" if k in s else "-" for k in ("torch f32", "torch bf16"))
            + f" | {peak['sq'] / 1e6:.0f} MB | " + (f"{min(torch_peak) / 1e6:.0f} MB" if torch_peak else "-") + " | "
            + ", ".join(f"{k} {v / total:.0%}" for k, v in sorted(m["work"].items(), key=lambda kv: -kv[1]) if v / total > 0.005) + " |")


def options(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", choices=SHAPES, default="smollm2")
    p.add_argument("--scheme", default="W2A16")
    p.add_argument("--batch", type=int, default=3)
    p.add_argument("--tokens", type=int, default=2048)
    p.add_argument("--layers", type=int, default=1)
    p.add_argument("--rank", type=int, default=4)
    p.add_argument("--shards", type=int, default=1, help="sq-window --shards: the gradient of a batch in so many parts, which takes their memory")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--repeats", type=int, default=5, help="rounds; the order alternates")
    p.add_argument("--steps", type=int, default=2, help="steps measured in a round, after one that warms up")
    p.add_argument("--peers", default="f32,bf16", help="precisions of PyTorch; empty: none")
    p.add_argument("--give-up", type=float, default=0, metavar="N", help="stop a peer that takes more than N times sq's time; 0: never")
    p.add_argument("--json")
    p.add_argument("--header", action="store_true", help="print the head of the table first")
    p.add_argument("--child", help=argparse.SUPPRESS)
    p.add_argument("--autocast", action="store_true", help=argparse.SUPPRESS)
    return p.parse_args(argv)


def main():
    o = options()
    if o.child:
        return child(o)
    if o.header:
        print(HEAD, flush=True)
    m = measure(o)
    if o.json:
        with open(o.json, "a") as f:
            f.write(json.dumps(m) + "\n")
    print(row(m))
    return 0


if __name__ == "__main__":
    sys.exit(main())
