#!/usr/bin/env python3
"""One training step of sq-window against its own matrix products and against PyTorch, side by side in one run.

    bench/window.py [--shape smollm2|llama-7b|tiny] [--batch N] [--tokens N] [--scheme W2A16] [--threads N] [--repeats N]

sq: the median of the epochs of a window of one layer (--metrics). Ceiling: the products of that step alone, by the same
product layer. PyTorch: the oracle (bench/oracle.py), forward, backward and AdamW, in f32 and under bf16 autocast, each in a
process of its own, so that its memory is its own. The order alternates. Prints a row of Markdown; --json FILE appends an object."""
import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("SQ_BUILD", os.path.join(HERE, "..", "build", "gcc"))
SHAPES = {  # hidden, heads, kv, ffn
    "tiny": (256, 8, 4, 512),
    "smollm2": (576, 9, 3, 1536),
    "llama-7b": (4096, 32, 32, 11008),
}


def model_of(folder, shape):
    hidden, heads, kv, ffn = SHAPES[shape]
    subprocess.run([f"{BUILD}/gen/tiny_model", "--layers", "1", "--hidden", str(hidden), "--heads", str(heads), "--kv-heads",
                    str(kv), "--ffn", str(ffn), "--vocab", "512", "--dtype", "bf16", folder], check=True)


def sq_steps(work, o):
    """seconds of each step, and the share of time in products"""
    metrics = f"{work}/metrics"
    if os.path.exists(metrics):
        os.unlink(metrics)
    subprocess.run([f"{BUILD}/bin/sq-window", "-q", "-i", f"{work}/calib.sq", "-o", "/dev/null", "-s", o.scheme, "--schedule", "layer",
                    "--gamma", "1", "--init", "minmax", "--epochs", str(o.steps + 1), "--batch", str(o.batch), "--threads", str(o.threads),
                    "--metrics", metrics], check=True)
    lines = [json.loads(x) for x in open(metrics)]
    done = next(x for x in lines if x["event"] == "done")
    return [x["seconds"] for x in lines if x["event"] == "epoch"][1:], done["work"], done["peak_bytes"]


def ceiling(o):
    hidden, heads, kv, ffn = SHAPES[o.shape]
    env = dict(os.environ, OMP_NUM_THREADS=str(o.threads))
    out = subprocess.run([f"{BUILD}/bench/ceiling", *map(str, (hidden, heads, kv, ffn, o.batch * o.tokens, 1, o.steps)), "bf16"],
                         check=True, capture_output=True, text=True, env=env).stdout
    return json.loads(out)


def torch_steps(work, o, autocast):
    """in a child: seconds of each step, peak resident bytes"""
    out = subprocess.run([sys.executable, os.path.abspath(__file__), "--child", work, "--shape", o.shape, "--batch", str(o.batch),
                          "--tokens", str(o.tokens), "--scheme", o.scheme, "--threads", str(o.threads), "--steps", str(o.steps)]
                         + (["--autocast"] if autocast else []), check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def child(o):
    import time

    import torch
    sys.path.insert(0, HERE)
    import oracle
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    model = oracle.load_model(f"{o.child}/model")
    w = model.layers[0]
    bits = o.scheme[1:].split("A")
    qc = oracle.scheme(int(bits[0]), int(bits[1]))
    params = oracle.init_params(w, model.cfg, qc, scaling=qc.abits < 16)
    leaves = [t.requires_grad_() for t in params.values()]
    state = [(torch.zeros_like(t), torch.zeros_like(t)) for t in leaves]
    rope = oracle.rope_table(model.cfg, o.tokens)
    x = torch.randn(o.batch, o.tokens, model.cfg.hidden)
    target = torch.randn_like(x)
    seconds = []
    for i in range(o.steps + 1):
        start = time.monotonic()
        oracle.keep_alpha(params)
        with torch.autocast("cpu", torch.bfloat16, enabled=o.autocast):
            loss = torch.nn.functional.mse_loss(oracle.run(x, [w], [params], model.cfg, rope, qc).float(), target)
        grads = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            for t, g, s in zip(leaves, grads, state):
                oracle.adamw(t, g, s, i + 1, 1e-3)
        seconds.append(time.monotonic() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds[1:], "peak_bytes": peak}))


def compare(o):
    times = {"sq": [], "ceiling": [], "torch f32": [], "torch bf16": []}
    peak, work_seconds = {}, {}
    with tempfile.TemporaryDirectory() as work:
        model_of(f"{work}/model", o.shape)
        ids = f"{work}/ids"
        with open(ids, "w") as f:
            f.write(" ".join(str(i * 7 % 512) for i in range(o.tokens * (o.batch + 2) * 2)))
        load = subprocess.Popen([f"{BUILD}/bin/sq-load", f"{work}/model"], stdout=subprocess.PIPE)
        subprocess.run([f"{BUILD}/bin/sq-calib", "--ids", ids, "-n", str(o.batch), "-l", str(o.tokens), "--heldout", "0", "-o",
                        f"{work}/calib.sq"], stdin=load.stdout, check=True)
        load.wait()
        for r in range(o.repeats):
            for name in list(times) if r % 2 == 0 else list(times)[::-1]:
                if name == "sq":
                    seconds, work_seconds, peak["sq"] = sq_steps(work, o)
                    times[name] += seconds
                elif name == "ceiling":
                    times[name] += ceiling(o)
                elif o.torch:
                    got = torch_steps(work, o, name.endswith("bf16"))
                    times[name] += got["seconds"]
                    peak[name] = got["peak_bytes"]
    median = {k: statistics.median(v) for k, v in times.items() if v}
    result = {"shape": o.shape, "scheme": o.scheme, "batch": o.batch, "tokens": o.tokens, "threads": o.threads,
              "machine": platform.processor() or platform.machine(), "seconds": median, "work": work_seconds, "peak_bytes": peak}
    if o.json:
        with open(o.json, "a") as f:
            f.write(json.dumps(result) + "\n")
    total = sum(work_seconds.values())
    print(f"| {o.shape} {o.scheme} {o.batch}×{o.tokens} | {median['ceiling'] / median['sq']:.0%} | "
          + " | ".join(f"{median[k] / median['sq']:.2f} ×" if k in median else "-" for k in ("torch f32", "torch bf16")) + " | "
          + " | ".join(f"{peak[k] / 1e6:.0f} MB" if k in peak else "-" for k in ("sq", "torch bf16")) + " | "
          + ", ".join(f"{k} {v / total:.0%}" for k, v in sorted(work_seconds.items(), key=lambda kv: -kv[1]) if v / total > 0.005) + " |")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", choices=SHAPES, default="smollm2")
    p.add_argument("--scheme", default="W2A16")
    p.add_argument("--batch", type=int, default=3)
    p.add_argument("--tokens", type=int, default=2048)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--repeats", type=int, default=5, help="rounds; the order alternates")
    p.add_argument("--steps", type=int, default=2, help="steps measured in a round, after one that warms up")
    p.add_argument("--json")
    p.add_argument("--no-torch", dest="torch", action="store_false")
    p.add_argument("--header", action="store_true", help="print the head of the table first")
    p.add_argument("--child", help=argparse.SUPPRESS)
    p.add_argument("--autocast", action="store_true", help=argparse.SUPPRESS)
    o = p.parse_args()
    if o.child:
        return child(o)
    if o.header:
        print("| window | of its products' rate | against PyTorch f32 | PyTorch bf16 | memory | PyTorch's | where the time goes |\n"
              "| --- | --- | --- | --- | --- | --- | --- |")
    return compare(o)


sys.exit(main())
