# sq-pack on plainly rounded models: formats, exact types, refusals, nothing half-written
bats_require_minimum_version 1.5.0

setup() {
    root=$BATS_TEST_DIRNAME/../..
    build=${SQ_BUILD:-$root/build/gcc}
    export PATH="$build/bin:$build/gen:$PATH"
    tiny=$root/examples/tiny
    models=$root/tests/oracle/goldens/models
    mkdir "$BATS_TEST_TMPDIR/w" # bats itself puts files beside it
    cd "$BATS_TEST_TMPDIR/w" || return 1
}

rounded() { # rounded MODEL SCHEME [options of sq-merge]: in.sq
    sq-load "$1" | sq-merge -s "$2" -o in.sq "${@:3}"
}

merged() { # merged SCHEME [options of sq-merge]: in.sq from examples/tiny
    rounded "$tiny" "$@"
}

spoil() { # spoil WHAT: in.sq
    spoil_stream "$1" <in.sq >spoilt.sq && mv spoilt.sq in.sq
}

refused() { # refused TEXT ARGS...: status 1, one line, nothing left behind
    local text=$1 before
    shift
    before=$(ls)
    run -1 --separate-stderr sq-pack -i in.sq "$@"
    echo "$stderr"
    [ "${#stderr_lines[@]}" = 1 ]
    [ -z "$output" ]
    [[ $stderr == "sq-pack: error: "*"$text"* ]]
    [ "$(ls)" = "$before" ]
}

@test "pack: help and version go to stdout, a bad option is 2" {
    run -0 --separate-stderr sq-pack --help
    [[ $output == *"--lossy"* ]]
    [ -z "$stderr" ]
    run -0 sq-pack --version
    run -2 --separate-stderr sq-pack --no-such-thing
    [ -z "$output" ]
    run -2 sq-pack -f awq -o x.gguf
    run -2 sq-pack --dtype f16 -o x
}

@test "pack: each scheme gets the smallest exact type, the file equals the stream" {
    for row in "W2A16 q2_k 2.6250" "W2A16g64 q4_0 4.5000" "W3A16g128 q4_0 4.5000" "W3A16s q3_k 3.4375" \
        "W4A16 q4_k 4.5000" "W4A16s q4_0 4.5000" "W4A16g32 q5_0 5.5000" "W5A16 q5_k 5.5000" "W6A16s q6_k 6.5625" \
        "W7A16 q8_0 8.5000" "W8A16s q8_0 8.5000"; do
        read -r scheme type bits <<<"$row"
        merged "$scheme"
        run -0 sq-pack -i in.sq -o out.gguf
        echo "$scheme: $output"
        [ "$(grep -c "  linear  $type .*56 tensors.* $bits bits" <<<"$output")" = 1 ]
        [[ $output == *"largest difference from the stream 0; read back: 74 tensors equal, 0 NaN, 0 infinite"* ]]
        [ "$(head -c 4 out.gguf)" = GGUF ]
    done
    [ "$(ls)" = "$(printf 'in.sq\nout.gguf')" ]
}

@test "pack: the same bytes for any number of threads and any name" {
    merged W4A16g32 --embed W8g32
    run -0 sq-pack --threads 1 -q -i in.sq -o a.gguf
    [ -z "$output" ]
    sq-pack --threads 3 -q -o b.gguf <in.sq
    cmp a.gguf b.gguf
    sq-pack --name other -q -o c.gguf <in.sq
    run ! cmp -s a.gguf c.gguf
}

@test "pack: every kind of model, in gguf and hf" {
    for m in llama3 qwen2 qwen3; do
        rounded "$models/$m" W4A16g32
        run -0 sq-pack --no-tokenizer -i in.sq -o "$m.gguf"
        [[ $output == *"largest difference from the stream 0; read back: "* ]]
        run -0 sq-pack -f hf -i in.sq -o "$m"
        [[ $output == *"largest difference from the stream 0; read back: "* ]]
        [[ $output == *"no tokenizer.json in the stream"* ]]
    done
    rounded "$models/qwen3-moe" W4A16g32
    run -0 sq-pack -f hf -i in.sq -o moe
    refused "architecture 'Qwen3MoeForCausalLM' (model_type 'qwen3_moe') is not supported" --no-tokenizer -o moe.gguf
}

@test "pack: what was written in one format is a model for the next" {
    merged W4A16
    sq-pack -q -i in.sq -o a.gguf
    sq-load a.gguf | sq-merge -s W8A16s -o b.sq
    sq-pack -q -i b.sq -o b.gguf
    run -0 sq-pack -f hf -i b.sq -o b
    [[ $output == *"its source was gguf"* ]]
    [ -f b/tokenizer.gguf.json ]
    [ ! -e b/tokenizer.json ]
    # the tokenizer keys went through a stream and are the same
    strings -n 12 a.gguf | grep tokenizer.ggml | sort >a.keys
    strings -n 12 b.gguf | grep tokenizer.ggml | sort | diff a.keys -
}

@test "pack: an hf directory carries the side files, in one file or several" {
    merged W3A16
    sq-pack -q -f hf -i in.sq -o one
    for f in tokenizer.json tokenizer_config.json generation_config.json; do cmp "$tiny/$f" "one/$f"; done
    python3 -c 'import json; c = json.load(open("one/config.json")); assert c["dtype"] == "float32" and c["tie_word_embeddings"]'
    sq-pack -q -i in.sq --shard-size 4000000 -o two/ -f hf
    [ "$(ls two/model-*.safetensors | wc -l)" -ge 4 ]
    python3 - <<'PY'
import json, os
index = json.load(open("two/model.safetensors.index.json"))
assert len(index["weight_map"]) == 74 and index["metadata"]["total_size"] == 4 * 5247232
assert set(index["weight_map"].values()) == {f for f in os.listdir("two") if f.endswith(".safetensors")}
assert max(os.path.getsize(f"two/{f}") for f in index["weight_map"].values()) < 4010000
PY
    run -0 sq-pack -f hf --dtype bf16 -i in.sq -o half
    [[ $output == *"note: bf16 rounds"* ]]
    refused "'one' exists and is not an empty directory" -f hf -o one
    mkdir empty
    sq-pack -q -f hf -i in.sq -o empty
    cmp one/model.safetensors empty/model.safetensors
}

@test "pack: a stream is copied with its digests" {
    merged W3A16
    sq-pack -i in.sq -o out.sq
    sq-pack -f sq <out.sq | sq-pack -q -o a.gguf
    sq-pack -q -i in.sq -o b.gguf
    cmp a.gguf b.gguf
}

@test "pack: activation bits that cannot be expressed are named" {
    merged W4A4
    run -0 sq-pack -i in.sq -o out.gguf
    [[ $output == *"note: activations of 4 bits cannot be expressed: W4A4 runs as W4A16"* ]]
}

@test "pack: --dry-run checks and reports, and writes nothing" {
    merged W2A16
    run -0 sq-pack --dry-run -i in.sq -o out.gguf
    [[ $output == *"nothing written"*"q2_k"*"4.0834 in the whole file"* ]]
    run -0 sq-pack --dry-run -f hf -i in.sq -o out
    run -0 sq-pack --dry-run -f sq -i in.sq -o out.sq
    mkfifo fifo
    for out in tcp://127.0.0.1:1 ipc://nobody - fd:1 fifo /dev/null; do
        run -0 sq-pack --dry-run -f sq -i in.sq -o $out
        [ -z "$output" ]
    done
    rm fifo
    [ "$(ls)" = in.sq ]
}

@test "pack: --dry-run refuses what could not be written" {
    merged W2A16
    mkdir taken && touch taken/x
    for f in gguf hf sq; do
        run -1 --separate-stderr sq-pack --dry-run -q -f $f -i in.sq -o missing/out
        [ "$stderr" = "sq-pack: error: cannot write in folder 'missing': No such file or directory" ]
        run -1 --separate-stderr sq-pack --dry-run -q -f $f -i in.sq -o taken
        [[ $stderr == "sq-pack: error: 'taken' "*"directory" ]]
    done
    mkdir full
    mount -t tmpfs -o size=16k none full 2>/dev/null || skip "skipped: no tmpfs can be mounted here"
    for f in gguf hf sq; do
        run sq-pack --dry-run -q -f $f -i in.sq -o full/out
        result+="$status $output;"
    done
    umount full
    [[ $result =~ ^("1 sq-pack: error: 'full/out' will have "[0-9.]+" MB, its folder has 0.0 MB free;"){3}$ ]]
}

@test "pack: --metrics has the numbers" {
    merged W4A16g32
    sq-pack -q --metrics m.json -i in.sq -o out.gguf
    python3 -c '
import json, os
m = json.loads(open("m.json").read())
assert m["event"] == "packed" and m["linear"]["q5_0"]["tensors"] == 56 and m["max_diff"] == 0
assert m["file_bytes"] == os.path.getsize("out.gguf") and m["scheme"] == "W4A16g32" and m["bits_linears"] == 5.5'
}

@test "pack: what would not be exact is refused, tensor and reason named" {
    q=model.layers.0.self_attn.q_proj.weight
    merged W4A16g16
    refused "tensor '$q' has groups of 16 columns, not a multiple of the 32 of q8_0; --lossy writes the nearest" -o x.gguf
    merged W8A16
    refused "tensor '$q': codes minus zero points reach -" -o x.gguf
    merged W4A16
    refused "tensor '$q': codes minus zero points reach -" --type q4_0 -o x.gguf
    refused "tensor '$q': codes minus zero points reach -" --type q2_k -o x.gguf
    merged W4A16 --scale f32
    refused "is no float16, merge with --scale f16" -o x.gguf
    sq-pack -q -f hf -i in.sq -o exact
    rounded "$models/llama-48" W4A16
    refused "tensor '$q' has 48 columns, not a multiple of the 32 of q8_0" --no-tokenizer -o x.gguf
    refused "no block type 'q9'" --type q9 -o x.gguf
}

@test "pack: --lossy takes the nearest type and prints the error" {
    for row in "W4A16g16 q8_0" "W8A16 q8_0" "W4A16,--scale=f32 q4_k"; do
        read -r scheme type <<<"$row"
        merged ${scheme/,/ }
        run -0 sq-pack --lossy -i in.sq -o out.gguf
        echo "$output"
        [[ $output == *"linear  $type "*"nearest, not exact"* ]]
        [[ $output == *"largest difference from the stream 0.0"*" in model.layers."*"; read back: 74 tensors equal"* ]]
    done
    merged W4A16g32
    run -0 sq-pack --lossy --type q4_1 -i in.sq -o out.gguf
    [[ $output == *"linear  q4_1 "* ]]
    rounded "$models/llama-48" W4A16
    run -0 sq-pack --lossy --no-tokenizer -i in.sq -o out.gguf
    [[ $output == *"linear  f16 "* ]]
}

@test "pack: a stream that is not merged, lacks a tokenizer, or holds a NaN" {
    merged W4A16
    spoil final
    refused "layer 0 is not merged but 'final': run sq-merge first" -o x.gguf
    refused "layer 0 is not merged but 'final': run sq-merge first" -f hf -o x
    merged W4A16
    spoil no-files
    refused "the stream has no tokenizer.json; --no-tokenizer writes a file that takes ids only" -o x.gguf
    sq-pack -q --no-tokenizer -i in.sq -o ids.gguf
    merged W4A16
    spoil nan
    refused "tensor 'model.norm.weight'" -o x.gguf
    run -0 bash -o pipefail -c "sq-load '$models/llama3' | sq-merge -s W4A16 | spoil_stream no-files | sq-pack -f hf -o ids"
}

@test "pack: a cut input is 3, and no file appears" {
    merged W4A16
    for n in 0 10 5000 300000 3000000; do
        run -3 --separate-stderr bash -c "head -c $n in.sq | sq-pack -o x.gguf"
        run -3 --separate-stderr bash -c "head -c $n in.sq | sq-pack -f hf -o x"
    done
    head -c -1 in.sq >cut.sq
    run -3 sq-pack -i cut.sq -o x.gguf
    run -3 sq-pack -f sq -i cut.sq -o x.sq
    rm cut.sq
    [ "$(ls)" = in.sq ]
}

@test "pack: a damaged byte is found, and no file appears" {
    merged W4A16
    cp in.sq good.sq
    python3 - <<'PY'
b = bytearray(open("in.sq", "rb").read())
b[2000000] ^= 1
open("in.sq", "wb").write(b)
PY
    refused "" -o x.gguf
}

@test "pack: a full disk is an error with a text, and no file appears" {
    merged W4A16
    for args in "-o x.gguf" "-f hf -o x"; do
        run -1 --separate-stderr bash -c "ulimit -f 1000; sq-pack $args -i in.sq"
        [[ $stderr == *"cannot write 'x"*"File too large" ]]
        [ "$(ls)" = in.sq ]
    done
    refused "cannot write" -o /nonexistent/x.gguf
    refused "cannot write in folder '/nonexistent'" -f hf -o /nonexistent/x
}

@test "pack: what a link leads to is written; a FIFO, a device or a folder is not replaced by a file" {
    merged W4A16
    touch file.gguf
    mkdir folder
    ln -s file.gguf link.gguf
    ln -s folder link
    sq-pack -q -i in.sq -o link.gguf
    sq-pack -q -f hf -i in.sq -o link
    [ -L link.gguf ] && [ "$(head -c 4 file.gguf)" = GGUF ]
    [ -L link ] && [ -f folder/config.json ]
    mkfifo fifo.gguf
    mknod null.gguf c 1 3 2>/dev/null || ln -s /dev/null null.gguf
    for dry in "" --dry-run; do
        refused "'fifo.gguf' is not a regular file" $dry -o fifo.gguf
        refused "'null.gguf' is not a regular file" $dry -o null.gguf
        refused "'folder' is a directory" $dry -f gguf -o folder
        refused "'link' exists and is not an empty directory" $dry -f hf -o link
    done
    [ -p fifo.gguf ] && [ -c null.gguf ]
}

@test "pack: the format is said by -f or by the name" {
    merged W4A16
    refused "does not say which format is wanted" -o model.bin
    refused "does not say which format is wanted"
    refused "is written to a path" -f gguf
    sq-pack -q -f gguf -i in.sq -o model.bin
    [ "$(head -c 4 model.bin)" = GGUF ]
}
