#!/usr/bin/env python3
"""Float perplexity of sq-eval against transformers in float32, on the same token ids: within 1e-4 relative.

The figures that the quick tests store (tests/cli/sq-eval.bats) come from here: `perplexity.py --print` shows them.
"""
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile


try:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as e:
    print("1..1\nok 1 - perplexity # skip skipped: %s" % e)
    sys.exit(0)

SHARED = "../shared/data"


def smollm2():
    missing = [m for m in ("gguf", "accelerate") if not importlib.util.find_spec(m)]
    if missing:
        return None, "skipped: transformers reads GGUF files only with %s" % " and ".join(missing)
    p = subprocess.run(["tests/fetch-smollm2.sh"], capture_output=True, text=True)
    if p.returncode == 77:
        return None, p.stderr.strip()
    return p.stdout.strip(), ""


def per_window(model, ids, length):
    """mean negative log-likelihood of tokens 2..length of every window, in double from float32 logits"""
    out = []
    with torch.no_grad():
        for i in range(0, len(ids) - length + 1, length):
            w = torch.tensor(ids[i:i + length])[None]
            logp = model(w).logits[0, :-1].double().log_softmax(-1)
            out.append(-logp.gather(1, w[0, 1:, None]).mean().item())
    return out


def sq_eval(path, ids, length):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(ids, f)
        f.flush()
        p = subprocess.run(["sq-eval", "--ids", f.name, "--length", str(length), "--json", path],
                           capture_output=True, text=True)
    if p.returncode:
        raise RuntimeError(p.stderr)
    return json.loads(p.stdout)["value"]


def load(path):
    where, extra = (os.path.dirname(path), {"gguf_file": os.path.basename(path)}) if path.endswith(".gguf") else (path, {})
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, attn_implementation="eager", **extra)
    return model.eval(), AutoTokenizer.from_pretrained(where, **extra)


def main():
    smol, why = smollm2()
    cases = [("tiny", "examples/tiny", "examples/tiny/test.txt", 512, 0, ""),
             ("TinyStories-656K", SHARED + "/models/TinyStories-656K", SHARED + "/text/tinyshakespeare.txt", 256, 64, ""),
             ("SmolLM2-135M-Instruct", smol, "examples/tiny/test.txt", 512, 8, why)]
    failed = 0
    for n, (name, path, text, length, windows, reason) in enumerate(cases, 1):
        if not reason:
            reason = next(("skipped: %s is absent" % p for p in (path, text) if not os.path.exists(p)), "")
        if reason:
            print("ok %d - %s # skip %s" % (n, name, reason), flush=True)
            continue
        model, tok = load(path)
        ids = tok(open(text, encoding="utf-8").read())["input_ids"]
        ids = ids[:windows * length] if windows else ids
        nll = per_window(model, ids, length)
        want = math.exp(sum(nll) / len(nll))
        if "--print" in sys.argv:
            print("# %s: %.8f (%d windows of %d)" % (name, want, len(nll), length), flush=True)
            continue
        got = sq_eval(path, ids, length)
        good = abs(got / want - 1) <= 1e-4
        failed += not good
        print("%s %d - %s: sq-eval %.6f, transformers %.6f" % ("ok" if good else "not ok", n, name, got, want), flush=True)
    print("1..%d" % len(cases))
    return failed > 0


sys.exit(main())
