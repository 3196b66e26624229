#!/usr/bin/env python3
"""make bench: every comparison in one run, as Markdown and JSON under bench/results.

    bench/run.py [--quick] [--only PATTERN] [--windows PATTERN] [--repeats N] [--peers f32,bf16] [--model GGUF|DIR] [--name NAME] [--out DIR]

Windows of SmolLM2's and of Llama-2-7B's layer shapes against their products alone and against PyTorch; perplexity against
transformers and llama.cpp; cost against layers, tokens, rank and group size; projections from single layers. Without
PyTorch (SQ_PYTHON names a Python that has it) its columns stay empty. --quick: small shapes, one round."""
import argparse
import datetime
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import window  # noqa: E402

BUILD = window.BUILD


def machine():
    name = next((x.split(":", 1)[1].strip() for x in open("/proc/cpuinfo") if x.startswith("model name")), "unknown")
    version = subprocess.run([f"{BUILD}/bin/sq-window", "--version"], capture_output=True, text=True).stdout.strip()
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    flags = next((x for x in open("/proc/cpuinfo") if x.startswith("flags")), "").split()
    has = [f for f in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if f in flags]
    return {"processor": name, "instructions": has, "threads": os.cpu_count(), "version": version, "commit": commit,
            "date": datetime.date.today().isoformat()}


def have(*modules):
    code = "; ".join(f"import {m}" for m in modules)
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# ---- what is measured: name, options of window.py ----

WINDOWS = [f"--shape {shape} --scheme {scheme} --batch {batch} --tokens 2048"
           for shape in ("smollm2", "llama-7b") for scheme in ("W2A16", "W4A4") for batch in (1, 3)]
WINDOWS[:0] = [f"--shape smollm2 --scheme {scheme} --batch 3 --tokens 512" for scheme in ("W2A16", "W4A4")]
QUICK = ["--shape tiny --scheme W2A16 --batch 3 --tokens 256", "--shape tiny --scheme W4A4 --batch 3 --tokens 256"]
BASE = "--shape smollm2 --batch 3 --tokens 512"
COSTS = [("layers of the window", "", [f"--layers {n}" for n in (1, 2, 4)]),
         ("tokens of a sample", "", [f"--tokens {n}" for n in (256, 512, 1024, 2048)]),
         ("rank", "", [f"--rank {n}" for n in (1, 4, 16, 64)]),
         ("group size", "", [f"--scheme W2A16{g}" for g in ("", "g128", "g64", "g32")])]
PROJECTIONS = [("Llama-2-7B", "llama-7b", 32), ("Qwen2.5-7B", "qwen2.5-7b", 28), ("Llama-2-70B", "llama-70b", 80)]


class Report:
    def __init__(self, o):
        self.o, self.json = o, []
        os.makedirs(o.out, exist_ok=True)
        self.path = os.path.join(o.out, o.name)
        self.text = open(f"{self.path}.md", "w")

    def say(self, line=""):
        print(line, flush=True)
        print(line, file=self.text, flush=True)

    def keep(self, m):
        self.json.append(m)
        with open(f"{self.path}.json", "w") as f:
            json.dump({"machine": machine(), "results": self.json}, f, indent=1)

    def wanted(self, name):
        return re.search(self.o.only, name) is not None


def windows(r):
    r.say("## One training step of one layer\n\nThe rate is that of the same products alone, linears only, and with attention's. "
          "× : PyTorch's time over ours, in the same run.\n")
    r.say(window.HEAD)
    for args in QUICK if r.o.quick else [w for w in WINDOWS if re.search(r.o.windows, w)]:
        slow = "llama-7b" in args
        o = window.options(args.split() + ["--repeats", str(r.o.repeats), "--steps", "1" if slow else "2", "--peers", r.o.peers,
                                           "--give-up", str(r.o.give_up if slow else 0)])
        m = window.measure(o)
        r.keep(m)
        r.say(window.row(m))
    r.say()


def costs(r):
    r.say("## Cost of a step against its parameters\n\nsmollm2, 3×512, W2A16, one layer, rank 4; ratios of time and of peak memory to that.\n")
    r.say("| what | " + " | ".join(["value", "time", "memory"]) + " |\n| --- | --- | --- | --- |")
    measure = lambda extra: window.measure(window.options(
        (BASE + " " + extra).split() + ["--repeats", str(r.o.repeats), "--steps", "2", "--peers", ""]))
    base = measure("")
    for name, _, variants in COSTS:
        for v in variants:
            m = measure(v)
            r.keep(m)
            r.say(f"| {name} | {v.split()[-1].removeprefix('W2A16') or 'a row'} | {m['seconds']['sq'] / base['seconds']['sq']:.2f} × | "
                  f"{m['peak_bytes']['sq'] / base['peak_bytes']['sq']:.2f} × |")
    r.say()


def projections(r):
    r.say("## Projections, not measurements\n\nFrom one step on one layer at 1×2048, W2A16, on this machine: 128 samples of 2048, batch 1, 20 epochs over "
          "both stages, the windows of the default schedule, without the evaluations between them. Memory: a window of 4 layers with its activations "
          "in a file (--spill), from the peaks with one and with two layers.\n")
    r.say("| model | seconds of a layer's step | whole run | memory |\n| --- | --- | --- | --- |")
    for name, shape, layers in PROJECTIONS:
        peaks = []
        for n in (1, 2):
            if n == 2 and shape == "llama-70b":
                continue
            o = window.options(["--shape", shape, "--batch", "1", "--tokens", "2048", "--layers", str(n), "--steps", "1"])
            with tempfile.TemporaryDirectory() as work:
                window.prepare(work, o)
                steps, _, peak = window.sq_steps(work, o)
            peaks.append(peak)
            if n == 1:
                step = statistics.median(steps)
        plan = subprocess.run([f"{BUILD}/bin/sq-window", "-s", "W2A16", "--plan", "--layers", str(layers)], check=True,
                              capture_output=True, text=True).stdout
        passes = sum(int(b) - int(a) + 1 for a, b in re.findall(r"(\d+)-(\d+)", plan))
        days = step * 128 * 20 * passes / 86400
        memory = f"{(peaks[0] + 3 * (peaks[1] - peaks[0])) / 1e9:.1f} GB" if len(peaks) == 2 else f"one layer: {peaks[0] / 1e9:.1f} GB"
        r.keep({"bench": "projection", "model": name, "step_seconds": step, "layer_steps": passes, "peak_bytes": peaks})
        r.say(f"| {name} | {step:.1f} | {days:.1f} days | {memory} |")
    r.say()


def torch_steps(r, sizes):
    """seconds of PyTorch's steps on windows of so many layers: {(size, peer): median}"""
    out = {}
    for size in sizes:
        m = window.measure(window.options(f"--shape smollm2 --batch 3 --tokens 512 --layers {size}".split() +
                                          ["--repeats", str((r.o.repeats + 1) // 2), "--steps", "1", "--peers", r.o.peers]))
        out.update({(size, k): v for k, v in m["seconds"].items() if k.startswith("torch")})
    return out


def whole(r):
    """A run from the first window to the last; PyTorch's time is that of its steps, measured before and behind it, times their number."""
    r.say("## A whole run: 16 samples of 512, batch 3, 10 epochs, W2A16\n")
    if not r.o.model_given:
        r.say("skipped: --model names no model of SmolLM2's shape\n")
        return
    with tempfile.TemporaryDirectory() as work:
        load = subprocess.Popen([f"{BUILD}/bin/sq-load", "-q", r.o.model], stdout=subprocess.PIPE)
        subprocess.run([f"{BUILD}/bin/sq-calib", "-q", "-t", os.path.join(HERE, "..", "examples", "tiny", "calib.txt"), "-n", "16", "-l", "512",
                        "--heldout", "0", "-o", f"{work}/calib.sq"], stdin=load.stdout, check=True)
        load.wait()
        sq = [f"{BUILD}/bin/sq-window", "-q", "-i", f"{work}/calib.sq", "-s", "W2A16"]
        plan = subprocess.run([*sq, "--plan"], check=True, capture_output=True, text=True).stdout
        sizes = sorted({int(b) - int(a) + 1 for a, b in re.findall(r"(\d+)-(\d+)", plan)})
        before = torch_steps(r, sizes)
        subprocess.run([*sq, "-o", "/dev/null", "--epochs", "10", "--batch", "3", "--threads", str(os.cpu_count()), "--metrics", f"{work}/metrics"],
                       check=True)
        behind = torch_steps(r, sizes)
        lines = [json.loads(x) for x in open(f"{work}/metrics")]
    done, steps = next(x for x in lines if x["event"] == "done"), {}
    for x in lines:
        if x["event"] == "window":
            size = x["last"] - x["first"] + 1
            steps[size] = steps.get(size, 0) + x["steps"]
    seconds = {"sq": sum(x["seconds"] for x in lines if x["event"] == "window")}
    for (size, peer), s in before.items():
        seconds[peer] = seconds.get(peer, 0) + steps[size] * (s + behind[size, peer]) / 2
    r.keep({"bench": "whole", "steps": steps, "seconds": seconds, "peak_bytes": done["peak_bytes"], "work": done["work"]})
    r.say(f"sq-window: {sum(steps.values())} steps on windows of {', '.join(f'{k} layers ({n})' for k, n in sorted(steps.items()))}, with the evaluations between "
          f"them: {seconds['sq']:.0f} s, at most {done['peak_bytes'] / 1e6:.0f} MB.\n")
    for k in sorted(seconds):
        if k != "sq":
            r.say(f"The same steps in {k}, from the medians of its steps before and behind: {seconds[k] / seconds['sq']:.2f} × the time.")
    r.say()


def alternate(ways, repeats):
    """seconds of every round of shell commands, in alternating order"""
    env = dict(os.environ, OMP_WAIT_POLICY="passive")
    times = {name: [] for name in ways}
    for i in range(repeats):
        for name in list(ways)[::1 if i % 2 else -1]:
            start = time.monotonic()
            subprocess.run(["bash", "-o", "pipefail", "-c", ways[name]], check=True, env=env)
            times[name].append(time.monotonic() - start)
    return times


# What two hosts can gain when the second pass follows the first as soon as layers leave it: windows of the default schedule, equal steps.
OVERLAP_CEILING = {8: 1.38, 30: 1.74}


def on_two_cores(most, beside):
    """What is left of that gain when each pass has only so much of its speed while both work: their time together is 1 - 1 / most of the one process's."""
    return 1 / (2 / most - 1 + (1 - 1 / most) / beside)


def overlap(r):
    """One process with both passes against a pipe of two, each on one thread; a pass alone against two unrelated copies of it."""
    r.say("## Two passes at the same time\n\n`sq-window --rate 0.5 | sq-window --rate 1`, a thread each, against one process on one thread. Side by side: the speed "
          "of each of two unrelated copies of the first pass, of that of one alone.\n")
    r.say("| layers | speed | of what two hosts can gain | side by side | of what these two cores can gain |\n| --- | --- | --- | --- | --- |")
    sq = f"{BUILD}/bin/sq-window -q -s W2A16 --epochs 4 --batch 2 --threads 1"
    for layers, most in OVERLAP_CEILING.items():
        with tempfile.TemporaryDirectory() as work:
            window.prepare(work, window.options(f"--shape tiny --layers {layers} --batch 4 --tokens 256".split()))
            first = f"{sq} --rate 0.5 -i {work}/calib.sq"
            ways = {"one": f"{sq} -i {work}/calib.sq -o /dev/null", "two": f"{first} | {sq} --rate 1 -o /dev/null",
                    "alone": f"{first} -o /dev/null", "beside": f"{first} -o /dev/null & {first} -o /dev/null && wait $!"}
            times = alternate(ways, r.o.repeats)
        t = {name: statistics.median(x) for name, x in times.items()}
        gain, beside = t["one"] / t["two"], t["alone"] / t["beside"]
        here = on_two_cores(most, min(beside, 1.0))  # nobody gains from a neighbour: more is noise
        r.keep({"bench": "overlap", "layers": layers, "seconds": times, "gain": gain, "side_by_side": beside, "two_hosts": most, "two_cores": here})
        r.say(f"| {layers} | {gain:.2f} × | {gain / most:.0%} of {most} | {beside:.0%} | {gain / here:.0%} of {here:.2f} |")
    r.say()


def wire(r):
    """1500 MiB in one stream from one program to another: a pipe, and the endpoints that take its place."""
    r.say("## One stream between two programs\n\n1500 MiB, every byte checked on both sides; the rate against that of a pipe in the same round, "
          "start and end of both programs included.\n")
    r.say("| endpoint | of a pipe's rate | MB/s |\n| --- | --- | --- |")
    big, gen = 1500, f"{BUILD}/gen/gen_stream --no-prov --big"
    with tempfile.TemporaryDirectory() as work:
        for k in ("reader", "writer"):
            subprocess.run([f"{BUILD}/bin/sq-dump", "-q", "--keygen", f"{work}/{k}"], check=True)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        between = lambda url, reads="", writes="": (
            f"{BUILD}/bin/sq-dump --digest -i {url} {reads} >/dev/null & {gen} {big} -o {url} {writes} && wait $!")
        ways = {"pipe": f"{gen} {big} | {BUILD}/bin/sq-dump --digest >/dev/null", "ipc": between(f"ipc://{work}/s"),
                "tcp, loopback": between(f"tcp://127.0.0.1:{port}"),
                "tcp, loopback, with keys": between(f"tcp://127.0.0.1:{port}", f"--key {work}/reader --allow {work}/writer.pub",
                                                    f"--key {work}/writer --server {work}/reader.pub")}
        times = alternate(ways, r.o.repeats)
    for name in ways:
        ratio = statistics.median(p / t for p, t in zip(times["pipe"], times[name]))
        rate = big * 1.048576 / statistics.median(times[name])
        r.keep({"bench": "wire", "endpoint": name, "mib": big, "seconds": times[name], "of_pipe": ratio})
        r.say(f"| {name} | {ratio:.2f} | {rate:.0f} |")
    r.say()


def perplexity(r):
    import importlib.util
    spec = importlib.util.spec_from_file_location("sq_bench_eval", os.path.join(HERE, "eval.py"))
    ev = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ev)
    r.say("## Perplexity of a float model\n")
    peers = ["sq f32", "sq bf16"] + [f"torch {p}" for p in r.o.peers.split(",") if p] + (["llama.cpp f32"] if have("llama_cpp") else [])
    o = ev.options(["--model", r.o.model, "--repeats", str(r.o.repeats), "--peers", ",".join(peers)])
    m = ev.measure(o)
    r.keep(m)
    for line in ev.table(m):
        r.say(line)
    r.say()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true")
    p.add_argument("--only", default=".", help="parts whose name matches: window, eval, cost, project, whole, overlap, wire")
    p.add_argument("--windows", default=".", help="of the windows, those whose options match")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--peers", default="f32,bf16", help="precisions of PyTorch; empty: none")
    p.add_argument("--give-up", type=float, default=10, metavar="N", help="on Llama-2-7B's shape a peer is stopped at N times sq's time; 0: never")
    p.add_argument("--model", default="", help="for perplexity and the whole run, of SmolLM2's shape there; examples/tiny unless given")
    p.add_argument("--name", default="latest", help="of the result files")
    p.add_argument("--out", default=os.path.join(HERE, "results"))
    o = p.parse_args()
    o.model_given = bool(o.model)
    o.model = o.model or os.path.join(HERE, "..", "examples", "tiny")
    if o.quick:
        o.repeats = 1
    if o.peers and not have("torch"):
        print("skipped: PyTorch's columns: this Python has no torch (SQ_PYTHON names one)", file=sys.stderr)
        o.peers = ""
    r = Report(o)
    m = machine()
    r.say(f"# {m['processor']}, {m['threads']} threads\n\n{', '.join(m['instructions'])}; {m['version'].splitlines()[0]}; commit {m['commit']}, "
          f"{m['date']}. Medians of {o.repeats} rounds in alternating order.\n")
    for name, part in (("window", windows), ("eval", perplexity), ("cost", costs), ("project", projections), ("whole", whole), ("overlap", overlap),
                       ("wire", wire)):
        if r.wanted(name):
            part(r)
    return 0


sys.exit(main())
