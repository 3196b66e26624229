"""Ids of sq's tokenizers against Hugging Face tokenizers, id by id, on the texts of ../shared and on an edge-case text; the
digests of tests/tok_figures.h against both. Prints TAP. With "figures" as argument it prints tests/tok_figures.h instead."""
import os
import re
import subprocess
import sys

try:
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
except ImportError:
    print("1..1\nok 1 - tokenizers # SKIP skipped: the Python package tokenizers is absent")
    sys.exit(0)

BUILD = os.environ.get("SQ_BUILD", "build/gcc")
TOKENIZERS = ["models/tiny/tokenizer.json", "data/models/TinyStories-656K/tokenizer.json",
              "data/tokenizers/gpt2.tokenizer.json", "data/tokenizers/gptneox_olmo_v1_5.tokenizer.json",
              "data/tokenizers/llama2.tokenizer.json", "data/tokenizers/torchtitan_tiny2k.tokenizer.json"]
TEXTS = ["tests/golden/tokenizer_edge.txt", "data/wikitext2/wiki.test.raw", "data/text/tinyshakespeare.txt"]
MORE = ["data/text/calib/exl3_c4.utf8", "data/text/calib/exl3_wiki.utf8", "data/text/gutenberg/bryant-stories.txt",
        "data/text/calib/exl3_tiny.utf8", "data/tasks/mbpp.jsonl"]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
count = failed = 0


def where(path):
    return path if path.startswith(("tests/", "/", "build/")) else "../shared/" + path


def report(ok, name, why=""):
    global count, failed
    count += 1
    failed += not ok
    print(f"{'ok' if ok else 'not ok'} {count} - {name}")
    if not ok:
        print("# " + why)
    sys.stdout.flush()


def skip(name, path):
    global count
    count += 1
    print(f"ok {count} - {name} # SKIP skipped: {path} is absent")


def ours(tokenizer, text):
    with open(text, "rb") as f:
        r = subprocess.run([f"{BUILD}/gen/tokenize", tokenizer], stdin=f, capture_output=True, text=True)
    digest = re.search(r"digest ([0-9a-f]{16})", r.stderr)
    return [int(x) for x in r.stdout.split()], digest[1] if digest else "none", r.stderr.strip()


def compare(name, theirs, path, text):
    want = theirs.encode(open(text, encoding="utf8", newline="").read()).ids
    got, digest, said = ours(path, text)
    at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
    report(got == want, name, f"{said}; {len(got)} and {len(want)} ids, first difference at {at}")
    return len(want), digest


def variants(base, out):
    """Other shapes of tokenizer.json around one vocabulary, as models in use have them."""
    split = pre_tokenizers.Split
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pres = {
        "llama3": pre_tokenizers.Sequence([split(Regex(LLAMA3), "isolated"), bytes_only]),
        "qwen2": pre_tokenizers.Sequence([split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"), bytes_only]),
        "o200k": pre_tokenizers.Sequence([split(Regex(O200K), "isolated"), bytes_only]),
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        "digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(False), pre_tokenizers.ByteLevel(add_prefix_space=True)]),
        "words": pre_tokenizers.Sequence([split(Regex(r"\w+|[^\w\s]+"), "merged_with_next"), bytes_only]),
        "inverted": pre_tokenizers.Sequence([split(Regex(r"\s+"), "removed", invert=True), bytes_only]),
        "empty": pre_tokenizers.Sequence([split(Regex(r"x*"), "isolated"), bytes_only]),
        "before": pre_tokenizers.Sequence([split(" ", "merged_with_previous"), bytes_only]),
        "run": pre_tokenizers.Sequence([split(Regex(r"[a-z]"), "contiguous"), bytes_only]),
    }
    for name, pre in pres.items():
        t = Tokenizer.from_file(base)
        t.pre_tokenizer = pre
        if name in ("qwen2", "words"):
            t.normalizer = normalizers.NFC()
        t.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True, rstrip=True),
                              AddedToken("the", lstrip=True, normalized=False), AddedToken("caf\u00e9", normalized=True)])
        t.post_processor = processors.TemplateProcessing(single="<|im_start|> $A <|im_end|>",
                                                         special_tokens=[("<|im_start|>", t.token_to_id("<|im_start|>")),
                                                                         ("<|im_end|>", t.token_to_id("<|im_end|>"))])
        path = f"{out}/{name}.json"
        t.save(path)
        yield name, Tokenizer.from_file(path), path
    for scheme in ("first", "always", "never"):
        for cut in (False, True):
            t = Tokenizer.from_file(where(TOKENIZERS[4]))
            t.normalizer = None
            t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=cut)
            path = f"{out}/meta-{scheme}-{cut}.json"
            t.save(path)
            yield f"metaspace {scheme} split={cut}", Tokenizer.from_file(path), path


def main():
    figures = {}
    stored = dict(((a, b), (int(n), d)) for a, b, n, d in
                  re.findall(r'\{"(.*?)", "(.*?)", (\d+), "(.*?)"\}', open("tests/tok_figures.h").read()))
    for t in TOKENIZERS:
        if not os.path.exists(where(t)):
            skip(t, where(t))
            continue
        theirs = Tokenizer.from_file(where(t))
        for x in TEXTS + MORE:
            if not os.path.exists(where(x)):
                skip(f"{t} {x}", where(x))
                continue
            n, digest = compare(f"{t} {x}", theirs, where(t), where(x))
            if x in TEXTS:
                figures[t, x] = (n, digest)
                report(stored.get((t, x)) == (n, digest), f"figure of {t} {x}", f"stored {stored.get((t, x))}, now {(n, digest)}")
    base = where(TOKENIZERS[2])
    if not os.path.exists(base) or not os.path.exists(where(TOKENIZERS[4])):
        skip("variants", base)
    else:
        out = f"{BUILD}/tokenizer-variants"
        os.makedirs(out, exist_ok=True)
        for name, theirs, path in variants(base, out):
            for x in (TEXTS[0], MORE[2]):
                compare(f"{name} {x}", theirs, path, where(x))
    print(f"1..{count}")
    if sys.argv[1:] == ["figures"]:
        with open("tests/tok_figures.h", "w") as f:
            f.write("/* tokenizer, text, ids, XXH3 of the ids as little-endian int32: written by tests/long/tokenizer_ids.py figures */\n")
            for (t, x), (n, d) in figures.items():
                f.write(f'{{"{t}", "{x}", {n}, "{d}"}},\n')
    return failed > 0


sys.exit(main())
