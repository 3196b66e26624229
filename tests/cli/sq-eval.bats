# sq-eval: figures of real models, what it refuses, JSON
bats_require_minimum_version 1.5.0

setup() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    build=${SQ_BUILD:-$ROOT/build/gcc}
    export PATH="$build/bin:$build/gen:$PATH"
    export OMP_WAIT_POLICY=passive # small models: threads that spin only disturb other tests
    cd "$BATS_TEST_TMPDIR" || return 1
}

refused() { # refused STATUS 'TEXT' ARGS...: one line on stderr with the text, nothing on stdout
    local status=$1 text=$2
    shift 2
    run "-$status" --separate-stderr sq-eval "$@"
    [[ $stderr == *"$text"* ]] || { echo "stderr: $stderr"; return 1; }
    [ "${#stderr_lines[@]}" = 1 ]
    [ -z "$output" ]
}

near() { # near VALUE WANT RELATIVE
    python3 -c 'import sys; a, b, r = map(float, sys.argv[1:]); sys.exit(abs(a / b - 1) > r)' "$1" "$2" "$3" ||
        { echo "$1 is not within $3 of $2"; return 1; }
}

value() { # value METRIC <json lines
    python3 -c 'import json, sys; print(next(m["value"] for m in map(json.loads, sys.stdin) if m["metric"] == sys.argv[1]))' "$1"
}

small() { # a random model of two layers, its text and ids
    tiny_model --layers 2 model
    head -c 3000 "$ROOT/examples/tiny/test.txt" >text
    seq 0 255 >ids
}

@test "eval: help goes to stdout, bad usage is 2" {
    run -0 --separate-stderr sq-eval --help
    [[ $output == *"--base"* ]]
    [ -z "$stderr" ]
    [ "$(grep -c -- '--precision' <<<"$output")" = 1 ]
    run -2 --separate-stderr sq-eval --no-such-thing x
    run -2 --separate-stderr sq-eval a b -t x
    run -2 --separate-stderr sq-eval a
    [[ $stderr == *"--text"*"--ids"* ]]
    run -2 --separate-stderr sq-eval a -t x --ids y
    run -2 --separate-stderr sq-eval a -t x --length 1
    run -2 --separate-stderr sq-eval - --base - -t x
}

# Figures of transformers in float32 on the same ids (tests/long/perplexity.py recomputes them).
@test "eval: examples/tiny has transformers' perplexity" {
    sq-eval -t "$ROOT/examples/tiny/test.txt" --length 512 -n 16 --json "$ROOT/examples/tiny" >out
    near "$(value perplexity <out)" 37.7508313996 1e-4
}

@test "eval: TinyStories-656K has transformers' perplexity" {
    data=$ROOT/../shared/data
    [ -d "$data/models/TinyStories-656K" ] || skip "skipped: ../shared/data is absent"
    sq-eval -t "$data/text/tinyshakespeare.txt" --length 256 -n 64 --json "$data/models/TinyStories-656K" >out
    near "$(value perplexity <out)" 477.4307771339 1e-4
}

@test "eval: SmolLM2-135M-Instruct from GGUF has transformers' perplexity" {
    model=$(SQ_SMOLLM2=${SQ_SMOLLM2:-} "$ROOT/tests/fetch-smollm2.sh" 2>"$BATS_TEST_TMPDIR/why") ||
        skip "$(cat "$BATS_TEST_TMPDIR/why")"
    case $model in /*) ;; *) model=$ROOT/$model ;; esac
    sq-eval -t "$ROOT/examples/tiny/test.txt" --length 512 -n 2 --json "$model" >out
    near "$(value perplexity <out)" 70.597556205 1e-4
}

@test "eval: JSON lines, one a metric; people read stderr" {
    small
    run -0 --separate-stderr sq-eval -t text --length 64 --json --base model model
    [ "${#lines[@]}" = 3 ]
    [ "${#stderr_lines[@]}" = 3 ]
    [[ $stderr == *"sq-eval: perplexity "*" +- "*"windows of 64 tokens)"* ]]
    python3 - "$output" <<'PY'
import json, math, sys
p, kl, top = map(json.loads, sys.argv[1].splitlines())
assert [m["metric"] for m in (p, kl, top)] == ["perplexity", "kl", "top1"]
for m in (p, kl, top):
    assert set(m) == {"metric", "value", "stderr", "tokens", "windows", "length", "precision", "protocol"}
    assert m["length"] == 64 and m["tokens"] == m["windows"] * 63 and m["precision"] == "f32"
assert p["value"] > 1 and p["stderr"] > 0 and kl["value"] == 0 and top["value"] == 1
PY
    run -0 --separate-stderr sq-eval --ids ids --length 256 --json model
    [[ $output == *'"stderr":null'*'"windows":1'* ]]
    [[ $stderr != *"+-"* ]]
    run -0 --separate-stderr sq-eval --ids ids --length 64 -q model
    [ -z "$output$stderr" ]
}

@test "eval: directory, stream file and pipe give one figure; so do 1, 2 and 4 threads" {
    small
    sq-eval -t text --length 128 --json model >want
    sq-load model -o model.sq
    sq-eval -t text --length 128 --json model.sq | cmp - want
    sq-load model | sq-eval -t text --length 128 --json | cmp - want
    for n in 1 2 4; do
        sq-eval -t text --length 128 --json --threads $n model | cmp - want
    done
    near "$(sq-eval -t text --length 128 --json --backend ref model | value perplexity)" "$(value perplexity <want)" 1e-6
    near "$(sq-eval -t text --length 128 --json --precision bf16 model | value perplexity)" "$(value perplexity <want)" 1e-2
}

@test "eval: a merged stream is evaluated from its codes, with activations rounded as its scheme says" {
    tiny=$ROOT/examples/tiny
    head -c 8000 "$tiny/test.txt" >text
    for s in W8A16 W8A4 W2A16; do
        sq-load "$tiny" | sq-merge -s $s --scale f32 -o m.sq
        sq-eval -t text --length 128 --base "$tiny" --json m.sq >$s
    done
    python3 -c 'import sys; a, b, c = map(float, sys.argv[1:]); sys.exit(not 0 < 100 * a < b < c)' \
        "$(value kl <W8A16)" "$(value kl <W8A4)" "$(value kl <W2A16)"
}

@test "eval: plain rounding through load, merge and eval has the oracle's likelihoods" {
    model=$ROOT/../shared/data/models/TinyStories-656K golden=$ROOT/tests/oracle/goldens/rtn.json
    [ -d "$model" ] || skip "skipped: ../shared/data is absent"
    python3 -c 'import json, sys; print(*json.load(open(sys.argv[1]))["ids"])' "$golden" >rtn.ids
    for s in W4A16 W3A16 W2A16 W4A4; do
        sq-load "$model" | sq-merge -s $s --scale f32 | sq-eval --ids rtn.ids --length 256 --json >out
        python3 - "$golden" $s "$(value perplexity <out)" <<'PY'
import json, math, sys
golden, scheme, ppl = sys.argv[1:]
want, got = json.load(open(golden))["nll"][scheme]["f64"], math.log(float(ppl))
assert abs(got - want) <= (5e-3 if scheme == "W4A4" else 1e-5), (scheme, got, want)
PY
    done
}

@test "eval: a learning stream has the figures of what sq-merge makes of it; rounded tables are read" {
    tiny_model --layers 4 model
    head -c 6000 "$ROOT/examples/tiny/test.txt" >text
    sq-load model | sq-calib -t text -n 8 -l 64 |
        sq-window -s W3A4 --schedule slider:1,1 --epochs 2 --threads 2 -o learning.sq
    sq-eval -t text --length 64 --base model --json learning.sq >a
    sq-merge --scale f32 -i learning.sq -o merged.sq
    sq-eval -t text --length 64 --base model --json merged.sq >b
    for m in perplexity kl; do
        near "$(value $m <b)" "$(value $m <a)" 1e-6
    done
    sq-load model | sq-eval -t text --length 64 --base model --json >c
    python3 -c 'import sys; sys.exit(not float(sys.argv[1]) > 1e-3 > float(sys.argv[2]))' "$(value kl <a)" "$(value kl <c)"

    # only the tables are rounded, to 1/254 of a group's largest value: what 4-bit activations would amplify is left out
    sq-load model | sq-merge -s W16A16 --embed W8g32 | sq-eval -t text --length 64 --json >d
    near "$(value perplexity <d)" "$(value perplexity <c)" 0.005
    run ! near "$(value perplexity <d)" "$(value perplexity <c)" 0
}

@test "eval: the length is capped at the model's positions, with a message" {
    small
    cat text text text text text text >long
    run -0 --separate-stderr sq-eval -t long --length 4096 model
    [[ $stderr == *"warning: 'model' has 2048 positions"* ]]
    [[ $stderr == *"windows of 2048 tokens"* ]]
}

@test "eval: what cannot be measured is refused in one line" {
    small
    refused 1 "no_such" -t text no_such
    refused 1 "no_such" -t no_such model
    printf 'short' >short
    refused 1 "64" -t short --length 64 model
    echo 1 2 3 >few
    refused 1 "64" --ids few --length 64 model
    seq 200 300 >big
    refused 1 "256" --ids big --length 64 model
    echo 1 2 x >bad
    refused 1 "bad" --ids bad --length 2 model
    printf 'caf\xe9 %.0s' {1..200} >latin
    refused 1 "latin" -t latin --length 64 model
    cp -r model bare
    rm bare/tokenizer.json
    refused 1 "tokenizer" -t text --length 64 bare
    sq-eval --ids ids --length 64 bare
    tiny_model --layers 2 --vocab 300 other
    refused 1 "vocabulary" --ids ids --length 64 --base other model
}

@test "eval: a stream that stops, or has a NaN, is no figure" {
    small
    sq-load model -o model.sq
    head -c $(($(stat -c %s model.sq) / 2)) model.sq >half.sq
    refused 3 "half.sq" --ids ids --length 64 half.sq
    head -c $(($(stat -c %s model.sq) - 5)) model.sq >most.sq
    refused 3 "most.sq" --ids ids --length 64 most.sq
    sq-load model | sq-merge -s W8A16 | spoil_stream nan >nan.sq
    refused 1 "is NaN or Inf" --ids ids --length 64 nan.sq
    run -3 --separate-stderr bash -o pipefail -c "sq-load no_such | sq-eval --ids ids --length 64 --json"
    [ -z "$output" ]
}
