"""What the checks of written files share: merged streams by plain rounding, packed; TAP."""
import json
import os
import shutil
import subprocess
import tempfile

BUILD = os.environ.get("SQ_BUILD", "build/gcc")
GOLDENS = "tests/oracle/goldens/models"


def merged(model, scheme, work, *options):
    """the model rounded plainly; options of sq-merge"""
    path = os.path.join(work, f"{os.path.basename(model)}-{scheme}{''.join(options)}.sq")
    load = subprocess.Popen([f"{BUILD}/bin/sq-load", model], stdout=subprocess.PIPE)
    subprocess.run([f"{BUILD}/bin/sq-merge", "-s", scheme, "-o", path, *options], stdin=load.stdout, check=True)
    load.stdout.close()
    if load.wait():
        raise RuntimeError(f"sq-load {model} failed")
    return path


def pack(stream, out, *options):
    p = subprocess.run([f"{BUILD}/bin/sq-pack", "--in", stream, "--out", out, *options], capture_output=True, text=True)
    if p.returncode:
        raise RuntimeError(p.stderr.strip())
    return out


def smollm2():
    """path, or None and the reason"""
    p = subprocess.run(["tests/fetch-smollm2.sh"], capture_output=True, text=True)
    return (p.stdout.strip(), "") if p.returncode == 0 else (None, p.stderr.strip())


def sq_eval(path, ids, length, *options):
    """perplexity by sq-eval, None where that program is not built"""
    if not shutil.which(f"{BUILD}/bin/sq-eval"):
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(ids, f)
        f.flush()
        p = subprocess.run([f"{BUILD}/bin/sq-eval", "--ids", f.name, "--length", str(length), "--json", *options, path],
                           capture_output=True, text=True)
    if p.returncode:
        raise RuntimeError(p.stderr.strip())
    return json.loads(p.stdout.splitlines()[0])["value"]


class Tap:
    """One test a line: a function that returns a text, or raises."""

    def __init__(self):
        self.n = self.failed = 0

    def run(self, name, test, skip=""):
        self.n += 1
        if skip:
            print(f"ok {self.n} - {name} # skip {skip}", flush=True)
            return
        try:
            print(f"ok {self.n} - {name}: {test()}", flush=True)
        except Exception as e:
            self.failed += 1
            print(f"not ok {self.n} - {name}\n# {type(e).__name__}: {e}", flush=True)

    def finish(self):
        print(f"1..{self.n}")
        return 1 if self.failed else 0


def near(value, want, tolerance, what):
    if not abs(value / want - 1) <= tolerance:
        raise AssertionError(f"{what} {value:.8g}, not {want:.8g} within {tolerance:g}")
    return f"{what} {value:.6f} for {want:.6f} ({abs(value / want - 1):.1e})"
