# sq-calib: samples of ids in the stream; what it refuses
bats_require_minimum_version 1.5.0

setup() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    build=${SQ_BUILD:-$ROOT/build/gcc}
    export PATH="$build/bin:$build/gen:$PATH"
    cd "$BATS_TEST_TMPDIR" || return 1
    tiny_model --vocab 300 m
    sq-load m >m.sq
    seq -s ' ' 0 199 >ids.txt
}

# the header of the tokens record, and all ids
head_of() { sq-dump --json "$1" | grep '"record":"tokens"'; }

refused() { # refused STATUS 'TEXT' ARGS...
    local status=$1 text=$2
    shift 2
    run "-$status" --separate-stderr sq-calib "$@" -o out.sq
    [[ $stderr == *"$text"* ]] || { echo "stderr: $stderr"; return 1; }
    [ "${#stderr_lines[@]}" = 1 ]
    [ -z "$(compgen -G 'out.sq*')" ]
}

@test "calib: help and version go to stdout, bad usage is 2" {
    run -0 --separate-stderr sq-calib --help
    [[ $output == *"--heldout"* ]]
    [ -z "$stderr" ]
    run -0 sq-calib --version
    run -2 --separate-stderr sq-calib --no-such-thing
    run -2 --separate-stderr sq-calib -i m.sq
    [ "$stderr" = "sq-calib: error: give either --text or --ids" ]
    run -2 --separate-stderr sq-calib -i m.sq -t a --ids b
    run -2 --separate-stderr sq-calib -i m.sq -t a -n 0
}

@test "calib: one tokens record in front of the first tensor, the rest unchanged" {
    sq-calib --ids ids.txt -n 20 -l 8 --no-prov <m.sq >c.sq
    run -0 sq-dump --check c.sq
    h=$(head_of c.sq)
    [[ $h == *'"samples":22,"length":8,"heldout":2,"dtype":"i32"'* ]]
    [[ $h == *'"bos":-1,"seed":0,"bytes":704'* ]]
    sq-dump --json c.sq | grep -vE '"record":"(tokens|end|begin)"' >a.txt
    sq-dump --json m.sq | grep -vE '"record":"(tokens|end|begin)"' >b.txt
    cmp a.txt b.txt
    sq-dump --json c.sq | grep -n -m2 -E '"record":"(tokens|tensor)"' | head -1 | grep tokens
}

@test "calib: the same seed gives the same bytes, another one does not" {
    sq-calib --ids ids.txt -n 5 -l 8 --no-prov <m.sq >a.sq
    sq-calib --ids ids.txt -n 5 -l 8 --no-prov -i m.sq -o b.sq
    cmp a.sq b.sq
    sq-calib --ids ids.txt -n 5 -l 8 --no-prov --seed 1 <m.sq >c.sq
    run -1 cmp a.sq c.sq
}

@test "calib: text of examples/tiny with its tokenizer and its rule for the first token" {
    [ -d "$ROOT/examples/tiny" ] || skip "skipped: examples/tiny is absent"
    sq-load "$ROOT/examples/tiny" | sq-calib -t "$ROOT/examples/tiny/calib.txt" -n 32 -l 512 >c.sq
    run -0 sq-dump --check c.sq
    h=$(head_of c.sq)
    [[ $h == *'"samples":34,"length":512,"heldout":2'* ]]
    [[ $h == *'"bos":0,'* ]]
    # JSON lines with the same text give the same ids
    python3 -c 'import json, sys; print(json.dumps({"text": open(sys.argv[1], newline="").read()}))' \
        "$ROOT/examples/tiny/calib.txt" >t.jsonl
    sq-load "$ROOT/examples/tiny" | sq-calib -t t.jsonl -n 32 -l 512 >d.sq
    [ "$(head_of d.sq)" = "$h" ]
}

@test "calib: length follows the model when it is not given" {
    [ -d "$ROOT/examples/tiny" ] || skip "skipped: examples/tiny is absent"
    sq-load "$ROOT/examples/tiny" | sq-calib -t "$ROOT/examples/tiny/calib.txt" -n 2 >c.sq
    [[ $(head_of c.sq) == *'"length":512'* ]]
    sq-load "$ROOT/examples/tiny" >t.sq
    refused 1 "samples of 513 tokens, the model has 512 positions" -i t.sq -t "$ROOT/examples/tiny/calib.txt" -l 513
}

@test "calib: short, missing and wrong texts" {
    refused 1 "the text has 200 tokens, a sample 201" -i m.sq --ids ids.txt -l 201 --heldout 0
    refused 1 "the text has 200 tokens, a sample and a held-out sample together 202" -i m.sq --ids ids.txt -l 101
    refused 1 "cannot read 'none': No such file or directory" -i m.sq --ids none -l 8
    printf 'abc\377' >bad.txt
    refused 1 "'bad.txt' is not UTF-8: byte 0xff at 3" -i m.sq -t bad.txt -l 8
    : >empty.txt
    refused 1 "'empty.txt' is empty" -i m.sq -t empty.txt -l 8
    echo '{"text": 1}' >bad.jsonl
    refused 1 "'bad.jsonl' line 1 has no string 'text'" -i m.sq -t bad.jsonl -l 8
    echo 1 2 100000 >large.txt
    refused 1 "token 2 has id 100000, the model has ids 0 .. " -i m.sq --ids large.txt -l 1 --heldout 0
    sq-calib --ids ids.txt -n 5 -l 8 <m.sq >a.sq
    refused 1 "the stream has calibration tokens already" -i a.sq --ids ids.txt -l 8
}

@test "calib: a model without a tokenizer takes ids only" {
    mkdir bare && cp m/* bare/ && rm bare/tokenizer*.json
    sq-load bare >bare.sq
    echo some text >t.txt
    refused 1 "the model has no tokenizer.json" -i bare.sq -t t.txt -l 1
    sq-calib -i bare.sq --ids ids.txt -n 3 -l 8 -o ok.sq
    run -0 sq-dump --check ok.sq
}

@test "calib: a broken tokenizer is named" {
    sed 's/"BPE"/"WordPiece"/' m/tokenizer.json >t.json && mv t.json m/tokenizer.json
    sq-load m >m.sq
    echo some text >t.txt
    refused 1 "tokenizer.json: tokenizer model 'WordPiece' is not supported, only BPE" -i m.sq -t t.txt -l 1
}

@test "calib: truncated input is 3 and leaves nothing" {
    head -c 3000 m.sq >cut.sq
    run -3 --separate-stderr sq-calib --ids ids.txt -n 2 -l 8 -i cut.sq -o out.sq
    [ -z "$(compgen -G 'out.sq*')" ]
    run -3 --separate-stderr bash -o pipefail -c 'head -c 3000 m.sq | sq-calib --ids ids.txt -n 2 -l 8 | sq-dump --check'
    run -1 --separate-stderr bash -c 'sq-calib --ids ids.txt -n 2 -l 8 <m.sq >/dev/full'
}

@test "calib: --stats has the mean squares that enter the first layer's products" {
    yes 7 | head -n 200 >same.txt # one token everywhere: its row of the embedding, normalised, times the gain
    sq-calib --ids same.txt -n 2 -l 16 --stats --precision f32 <m.sq >s.sq
    run -0 sq-dump --check s.sq
    sq-dump --tensor model.embed_tokens.weight --json --values 1024 s.sq >embedding
    sq-dump --tensor input_layernorm.weight --layer 0 --json --values 1024 s.sq >gain
    sq-dump --tensor input_sq.qkv --layer 0 --json --values 1024 s.sq >found
    python3 - <<'PY'
import json
row, gain, found = (json.load(open(f))["values"] for f in ("embedding", "gain", "found"))
row = row[7 * len(gain):8 * len(gain)]
mean = sum(x * x for x in row) / len(row) + 1e-5
for x, g, got in zip(row, gain, found):
    want = (x * g) ** 2 / mean
    assert abs(got - want) <= 1e-5 * want, (got, want)
assert len(row) == len(found)
PY
}

@test "calib: --stats changes nothing else; every layer has four, and the merge drops them" {
    sq-calib --ids ids.txt -n 5 -l 16 --no-prov <m.sq >c.sq
    sq-calib --ids ids.txt -n 5 -l 16 --no-prov --stats --threads 1 <m.sq >s.sq
    sq-calib --ids ids.txt -n 5 -l 16 --no-prov --stats --threads 3 <m.sq | cmp - s.sq
    layers=$(sq-dump --json c.sq | grep -c '"event":"begin"')
    [ "$(sq-dump s.sq | grep -c input_sq)" -eq $((4 * layers)) ]
    [ "$(sq-dump s.sq | grep tensor | grep -vc input_sq)" -eq "$(sq-dump c.sq | grep -c tensor)" ]
    [ "$(sq-merge -s W4A16 <s.sq | sq-dump --digest)" = "$(sq-merge -s W4A16 <c.sq | sq-dump --digest)" ]
    for f in c s; do
        sq-window -s W2A16 --epochs 1 --schedule layer <$f.sq | sq-merge | sq-dump --digest >$f.digest
    done
    cmp c.digest s.digest
    sq-window -s W2A16 --learn none --schedule layer -i m.sq -o final.sq
    refused 1 "layer 0: it is final; statistics are of the float model" -i final.sq --ids ids.txt -n 2 -l 16 --stats
}
