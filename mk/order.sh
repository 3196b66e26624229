#!/bin/sh
# The modules of libsq are a line; a source may include headers of its own module and of those left of it.
# Programs, lessons and tests of the public API see only sq/*.h (STYLE.md 2.2).
set -eu
cd "$(dirname "$0")/.."
python3 - <<'PY'
import glob, re, sys

line = "base tensor wire op model quant window eval".split()
allowed = {m: set(line[:i + 1]) for i, m in enumerate(line)}
allowed["pack"] = allowed["quant"] | {"pack"}
allowed["tok"] = {"base", "tok"}
allowed["sched"] = {"base", "sched"}
allowed["window"] |= {"sched", "tok"}
allowed["eval"] |= {"sched", "tok"}
allowed["model"] |= {"tok"}  # samples and tokenizers travel in the model stream
allowed["quant"] |= {"tok"}
allowed["pack"] |= {"tok"}

owner = {}  # public header -> module
for row in open("mk/modules.txt"):
    if row.strip() and not row.startswith("#"):
        module, headers = row.split(":")
        owner.update({h: module.strip() for h in headers.split()})

bad = []
for path in sorted(glob.glob("libsq/include/sq/*.h")):
    if path.split("/")[-1] not in owner:
        bad.append(f"{path}: no module in mk/modules.txt")
for path in sorted(glob.glob("libsq/**/*.[ch]", recursive=True) + glob.glob("bin/*.c") + glob.glob("examples/*.c")):
    part = path.split("/")
    header = part[1] == "include"
    module = owner.get(part[-1]) if header else part[1] if part[0] == "libsq" else None
    for n, text in enumerate(open(path), 1):
        public = re.match(r'\s*#include "sq/([a-z0-9_]+\.h)"', text)
        private = re.match(r'\s*#include "([^"]+)"', text)
        if public and module and module in allowed:
            to = owner.get(public[1])
            if to is None or to not in allowed[module]:
                bad.append(f"{path}:{n}: {module} may not include sq/{public[1]} of {to}")
        elif private and not public and part[0] in ("bin", "examples"):
            bad.append(f"{path}:{n}: programs see only sq/*.h, not {private[1]}")
        elif private and not public and ".." in private[1] and not header:
            other = [p for p in private[1].split("/") if p != ".."][0]
            if other in allowed and other not in allowed[module]:
                bad.append(f"{path}:{n}: {module} may not include {private[1]}")
print("\n".join(bad) if bad else "module order holds")
sys.exit(1 if bad else 0)
PY
