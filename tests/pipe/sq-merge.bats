# sq-merge in pipes: what it writes, what it refuses, how it ends
bats_require_minimum_version 1.5.0

setup() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    build=${SQ_BUILD:-$ROOT/build/gcc}
    export PATH="$build/bin:$build/gen:$PATH"
    cd "$BATS_TEST_TMPDIR" || return 1
    tiny_model --dtype bf16 model >/dev/null
    sq-load --no-prov model >float.sq
}

@test "sq-merge: usage errors exit 2 or 1, before anything is read" {
    run -2 sq-merge --no-such-option
    run -2 sq-merge --scale bf16
    run -1 --separate-stderr sq-merge operand
    [[ $stderr == "sq-merge: error: cannot read 'operand': "* ]]
    for s in W9A16 W1A16s W4 W4A16g1 W4A16x; do
        run -1 --separate-stderr sq-merge -s $s -i float.sq -o out.sq
        [[ $stderr == "sq-merge: error: scheme '$s'"* ]]
    done
    run -1 --separate-stderr sq-merge -s W4A16 --embed W4A16 -i float.sq -o out.sq
    [[ $stderr == *"W8g32"* ]]
    [ ! -e out.sq ]
    run -0 sq-merge --help
    [[ $output == *"--embed"* ]]
}

@test "sq-merge: a float stream needs -s" {
    run -1 --separate-stderr sq-merge -i float.sq -o out.sq
    [ "$stderr" = "sq-merge: error: layer 0 has no scheme: give -s" ]
    [ ! -e out.sq ]
}

@test "sq-merge: codes of every layer, the rest passes through" {
    run -0 sq-merge -s W3A16g32 --no-prov -i float.sq -o out.sq --metrics m.json
    run -0 sq-dump --check out.sq
    run -0 sq-dump out.sq
    [[ $output == *"layer    1 merged, scheme"* ]]
    [[ $output == *"self_attn.q_proj.codes u8 [64,64]"* ]]
    [[ $output == *"self_attn.q_proj.scales f16 [64,2]"* ]]
    [[ $output == *"tensor   model.embed_tokens.weight bf16"* ]]
    [[ $output == *"tokenizer.json"* ]]
    [[ $output != *"q_proj.weight"* ]]
    [[ $(cat m.json) == *'"event":"merged"'*'"codes":'* ]]
    run -0 python3 "$ROOT/tests/schema_check.py" out.sq
}

@test "sq-merge: --embed rounds embedding and head; tied models have one of them" {
    sq-merge -s W4A16 --embed W8g32 -i float.sq -o out.sq
    run -0 sq-dump out.sq
    [[ $output == *"model.embed_tokens.codes u8 [256,64]"* ]]
    [[ $output == *"lm_head.scales f16 [256,2]"* ]]
    run -0 python3 "$ROOT/tests/schema_check.py" out.sq
    tiny_model --tied tied >/dev/null
    sq-load tied | sq-merge -s W4A16 --embed W6 --scale f32 -o tied.sq
    run -0 sq-dump tied.sq
    [[ $output == *"model.embed_tokens.scales f32 [256,1]"* ]]
    [[ $output != *"lm_head"* ]]
    run -1 --separate-stderr sq-merge -s W4A16 --embed W8g48 -i float.sq -o bad.sq
    [[ $stderr == "sq-merge: error: tensor 'model.embed_tokens.weight' has rows of 64, not a multiple of group 48" ]]
    [ ! -e bad.sq ]
}

@test "sq-merge: same bytes for 1, 2 and 4 threads, for pipe and file, and for both backends" {
    sq-merge -s W2A16g32 --no-prov --threads 1 -i float.sq -o one.sq
    sq-merge -s W2A16g32 --no-prov --threads 4 -i float.sq -o four.sq
    cmp one.sq four.sq
    bash -o pipefail -c 'cat float.sq | sq-merge -s W2A16g32 --no-prov --threads 2 | cat >pipe.sq'
    cmp one.sq pipe.sq
    sq-merge -s W2A16g32 --no-prov --backend ref -i float.sq -o ref.sq
    cmp one.sq ref.sq
}

@test "sq-merge: a merged stream passes unchanged, another scheme is refused" {
    sq-merge -s W4A16 -i float.sq -o a.sq
    sq-merge -i a.sq -o b.sq
    run -0 sq-dump --cmp a.sq b.sq
    sq-merge -s W4A16 -i a.sq -o c.sq
    run -0 sq-dump --cmp a.sq c.sq
    run -1 --separate-stderr sq-merge -s W3A16 -i a.sq -o d.sq
    [ "$stderr" = "sq-merge: error: layer 0 was made for W4A16, not for W3A16" ]
    [ ! -e d.sq ]
}

@test "sq-merge: input that stops is exit 3, nothing under the final name" {
    size=$(stat -c %s float.sq)
    for n in 100 $((size / 2)) $((size - 10)); do
        head -c "$n" float.sq >cut.sq
        run -3 --separate-stderr sq-merge -s W4A16 -i cut.sq -o out.sq
        [[ $stderr == "sq-merge: error: "* ]]
        [ ! -e out.sq ]
        run -3 bash -o pipefail -c "head -c $n float.sq | sq-merge -s W4A16 | cat >/dev/null"
    done
    [ -z "$(ls -- *tmp* 2>/dev/null)" ]
}

@test "sq-merge: a full disk is exit 1" {
    [ -e /dev/full ] || skip "skipped: no /dev/full"
    run -1 --separate-stderr bash -c 'sq-merge -s W4A16 -i float.sq >/dev/full'
    [[ $stderr == "sq-merge: error: "* ]]
}

@test "sq-merge: a stage before it that refuses a NaN is exit 3 here" {
    run -0 python3 - <<'END'
import struct
data = bytearray(open("model/model.safetensors", "rb").read())
n, = struct.unpack("<Q", data[:8])
import json
at = json.loads(data[8:8 + n])["model.layers.1.mlp.down_proj.weight"]["data_offsets"][0]
data[8 + n + at + 20:8 + n + at + 22] = b"\xc0\x7f"
open("model/model.safetensors", "wb").write(data)
END
    run -3 --separate-stderr bash -o pipefail -c 'sq-load model | sq-merge -s W4A16 -o out.sq'
    [[ $stderr == *"sq-load: error: "*"mlp.down_proj.weight"* ]]
    [[ $stderr == *"sq-merge: error: "* ]]
    [ ! -e out.sq ]
}

@test "sq-merge: a rounded embedding means the same to sq-eval as to readers of the hf directory" {
    seq 0 255 >ids
    for scheme in W4A16 W3A16g32; do
        sq-merge -s $scheme --embed W4g32 -i float.sq -o m.sq
        rm -rf hf
        sq-pack -q -f hf -o hf -i m.sq
        sq-eval --ids ids -l 32 --json m.sq 2>/dev/null >a.json
        sq-eval --ids ids -l 32 --json hf 2>/dev/null >b.json
        run -0 python3 -c 'import json
a, b = (json.loads(open(n).readline())["value"] for n in ("a.json", "b.json"))
assert abs(a / b - 1) < 1e-6, (a, b)'
    done
}
