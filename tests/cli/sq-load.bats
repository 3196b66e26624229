# sq-load: what it reads, what it refuses, what it leaves behind, how much memory it holds
bats_require_minimum_version 1.5.0

setup() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    build=${SQ_BUILD:-$ROOT/build/gcc}
    export PATH="$build/bin:$build/gen:$PATH"
    cd "$BATS_TEST_TMPDIR" || return 1
}

refused() { # refused 'TEXT' ARGS...: status 1, one line on stderr with the text, no output
    local text=$1
    shift
    run -1 --separate-stderr timeout 60 sq-load "$@" -o out.sq
    [[ $stderr == *"$text"* ]] || { echo "stderr: $stderr"; return 1; }
    [ "${#stderr_lines[@]}" = 1 ]
    [ -z "$(compgen -G 'out.sq*')" ]
}

@test "load: help and version go to stdout, bad usage is 2" {
    run -0 --separate-stderr sq-load --help
    [[ $output == *"--dry-run"* ]]
    [ -z "$stderr" ]
    run -2 --separate-stderr sq-load --no-such-thing x
    run -2 --separate-stderr sq-load a b
    [ -z "$output" ]
}

@test "load: examples/tiny as a complete stream" {
    sq-load "$ROOT/examples/tiny" >a.sq
    run -0 sq-dump --check a.sq
    run -0 sq-dump a.sq
    [ "$(grep -c '^layer .* float' <<<"$output")" = 8 ]
    [[ $output == *tokenizer.json* ]]
    sq-load -i "$ROOT/examples/tiny" --no-prov -o b.sq
    sq-load "$ROOT/examples/tiny" --no-prov | cmp - b.sq
}

@test "load --dry-run: lists tensors and files, writes nothing" {
    run -0 sq-load --dry-run "$ROOT/examples/tiny" -o out.sq
    [ ! -e out.sq ]
    [ "$(grep -c '^tensor' <<<"$output")" = 74 ]
    [[ $output == *$'tensor\tmodel.embed_tokens.weight\tbf16\t[2048,256]'* ]]
    [[ $output == *$'file\ttokenizer.json\t'* ]]
    [[ ${lines[-1]} == *"LlamaForCausalLM, 8 layers, 74 tensors, 10494464 bytes" ]]
}

@test "load: shards give the bytes of the single file, for every dtype" {
    for dtype in f32 bf16 f16; do
        tiny_model --layers 5 --dtype $dtype one
        tiny_model --layers 5 --dtype $dtype --shards 3 three
        [ ! -e three/model.safetensors ]
        sq-load --no-prov one >one.sq
        sq-load --no-prov three >three.sq
        cmp one.sq three.sq
        run -0 sq-dump --check one.sq
        rm -r one three
    done
}

@test "load: stories260K from GGUF, when it is there" {
    gguf=$ROOT/../shared/data/models/stories260K/stories260Ktok512.gguf
    [ -f "$gguf" ] || skip "skipped: ../shared/data is absent"
    sq-load "$gguf" >a.sq
    run -0 sq-dump --check a.sq
    run -0 sq-load --dry-run "$gguf"
    [[ ${lines[-1]} == *"LlamaForCausalLM, 5 layers, 48 tensors, 1171200 bytes" ]]
    [[ $output == *$'file\ttokenizer.gguf.json\t'* ]]
}

@test "load: SmolLM2 from GGUF has the values that transformers reads from it" {
    gguf=$(cd "$ROOT" && sh tests/fetch-smollm2.sh 2>"$BATS_TEST_TMPDIR/why") || skip "$(cat "$BATS_TEST_TMPDIR/why")"
    [[ $gguf == /* ]] || gguf=$ROOT/$gguf
    run -0 bash -o pipefail -c "sq-load --no-prov '$gguf' | sq-dump --digest"
    # of the stream whose 272 tensors were compared with transformers' own reading: none differs
    [ "$output" = 3db2deadaf322cea ]
}

@test "load: directories that lack or break something are refused by name" {
    refused "cannot read 'none'" none
    mkdir empty
    refused "cannot read 'empty/config.json'" empty
    tiny_model good
    cp -r good m && rm m/model.safetensors
    refused "neither 'model.safetensors' nor 'model.safetensors.index.json'" m
    printf 'PK\3\4' >m/pytorch_model.bin
    refused "pickle" m
    refused "pickle" m/pytorch_model.bin
    refused "name its directory" good/model.safetensors
    rm -r m && cp -r good m && sed -i s/LlamaForCausalLM/FooForCausalLM/ m/config.json
    refused "architecture 'FooForCausalLM' is not supported" m
    rm -r m && cp -r good m && sed -i 's/"silu"/"relu"/' m/config.json
    refused "activation 'relu' is not supported" m
    rm -r m && cp -r good m && ln -s nowhere m/chat_template.jinja
    refused "cannot read 'm/chat_template.jinja': No such file or directory" m
    rm -r m && cp -r good m && rm m/config.json && mkdir m/config.json
    refused "cannot read 'm/config.json': not a regular file" m
    rmdir m/config.json && mkfifo m/config.json
    refused "cannot read 'm/config.json': not a regular file" m
    rm -r m && cp -r good m && sed -i 's/"hidden_size":64/"hidden_size":72/' m/config.json
    refused "has shape [256, 64], the config says [256, 72]" m
    rm -r m && cp -r good m && sed -i 's/"num_hidden_layers":2/"num_hidden_layers":3/' m/config.json
    refused "tensor 'model.layers.2.input_layernorm.weight' is missing" m
    rm -r m && cp -r good m && sed -i 's/"num_hidden_layers":2/"num_hidden_layers":1/' m/config.json
    refused "'model.layers.1." m
    rm -r m && cp -r good m && truncate -s -1 m/model.safetensors
    refused "the file is cut" m
    truncate -s 4 m/model.safetensors
    refused "too few for a header" m
    sq-load good -o stream.sq
    run -1 --separate-stderr sq-load stream.sq
    [[ $stderr == *"is a stream already"* ]]
}

@test "load: NaN weights are refused by name, nothing is left behind, the reader learns it" {
    tiny_model good
    size=$(stat -c %s good/model.safetensors)
    printf '\377\377\377\377' | dd of=good/model.safetensors bs=1 seek=$((size - 4)) conv=notrunc status=none
    refused "tensor 'lm_head.weight': element 16383 of 16384 is NaN or Inf" good
    run -3 --separate-stderr bash -c 'sq-load good 2>/dev/null | sq-dump --check'
    [[ $stderr == *"lm_head.weight"* ]]
}

@test "load: a full disk is status 1, a reader that leaves ends it quietly" {
    tiny_model good
    run -1 --separate-stderr bash -c 'sq-load good >/dev/full'
    [[ $stderr == "sq-load: error: "* ]]
    tiny_model --layers 40 big
    run -0 bash -c 'sq-load big | head -c 1000 >/dev/null; [ "${PIPESTATUS[0]}" = 141 ]'
}

@test "load: memory does not grow with the number of layers" {
    [[ $build != *address* && $build != *thread* ]] || skip "skipped: sanitizers keep freed memory"
    tiny_model --layers 8 --hidden 256 --ffn 512 --heads 8 --kv-heads 8 --vocab 1024 few
    tiny_model --layers 64 --hidden 256 --ffn 512 --heads 8 --kv-heads 8 --vocab 1024 many
    # 2.6 MB a layer: 168 MB altogether
    peak few.kb sq-load few >/dev/null
    peak many.kb sq-load many >/dev/null
    few=$(cat few.kb) many=$(cat many.kb)
    echo "8 layers: $few KiB, 64 layers: $many KiB"
    [ $((many - few)) -lt 4000 ]
}
