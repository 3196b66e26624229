# sq-dump on small streams of gen_stream: list, check, digest, compare, tensors, provenance
bats_require_minimum_version 1.5.0

setup() {
    cd "$BATS_TEST_TMPDIR" || return 1
    export PATH="${SQ_BUILD:-$BATS_TEST_DIRNAME/../../build/gcc}/bin:${SQ_BUILD:-$BATS_TEST_DIRNAME/../../build/gcc}/gen:$PATH"
    gen_stream >a.sq
}

@test "dump: help and version go to stdout, a bad option is 2" {
    run -0 --separate-stderr sq-dump --help
    [[ $output == *"--digest"* ]]
    [ -z "$stderr" ]
    run -0 sq-dump --version
    run -2 --separate-stderr sq-dump --no-such-thing
    [ -z "$output" ]
    run -2 sq-dump --check --digest a.sq
    run -2 sq-dump a.sq a.sq
    run -2 sq-dump --cmp a.sq a.sq
    # what a name holds begins no line and speaks to no terminal
    run -2 --separate-stderr sq-dump $'--no\nsuch'
    [ "${stderr_lines[0]}" = "sq-dump: error: unknown option '--no?such'; --help lists them" ]
    run -1 --separate-stderr sq-dump $'no\nsuch\033[31mfile'
    [ "$stderr" = "sq-dump: error: cannot read 'no?such?[31mfile': No such file or directory" ]
}

@test "dump: lists every record" {
    run -0 sq-dump a.sq
    [ "$(grep -c '^begin ' <<<"$output")" = 1 ]
    [ "$(grep -c '^layer .* float' <<<"$output")" = 2 ]
    [ "$(grep -c 'tensor  ' <<<"$output")" = 21 ]
    [[ $output == *"tokens   4 samples of 8, 1 held out"* ]]
    [[ $output == *'{"record":"from-a-later-version","x":1}'* ]]
    [[ ${lines[-1]} == "end "*" 30 records, "* ]]
    run -0 sq-dump <a.sq
}

@test "dump: JSON has a line per record, with the digests of payloads" {
    run -0 sq-dump --json a.sq
    [ "${#lines[@]}" = 31 ]
    [[ ${lines[0]} == '{"record":"begin"'* ]]
    [[ $output == *'"name":"tokenizer.json","bytes":18,"payload_xxh3":"'* ]]
    [[ ${lines[30]} == '{"record":"end","records":30,'* ]]
}

@test "dump --check: complete streams of every state pass" {
    for state in float learning final merged; do
        gen_stream --state $state >s.sq
        run -0 sq-dump --check s.sq
        [[ $output == "LlamaForCausalLM: 2 layers"*"complete" ]]
    done
}

@test "dump --check: says what is wrong, with status 4" {
    while read -r fault text; do
        gen_stream --fault "$fault" >s.sq
        run -4 --separate-stderr sq-dump --check s.sq
        [ -z "$output" ]
        [ "$stderr" = "sq-dump: error: check failed: $text" ]
    done <<'END'
swap layer 1 comes where layer 0 of 2 is due
twice layer 0 comes where layer 1 of 2 is due
no-norm tensor 'model.norm.weight' is missing
bad-shape layer 1: tensor 'self_attn.q_proj.weight' is 2-d 16 x 17, the config needs 2-d 16 x 16
late-file a file record behind the first tensor
bad-token token 4 of sample 2 is id 32, the model has 32
END
    printf 'PK\3\4 no stream' >zip
    run -4 sq-dump --check zip
    run -1 sq-dump zip
}

@test "dump --check: a stream cut short or given up is status 3" {
    size=$(stat -c %s a.sq)
    for n in 0 1 100 5000 $((size - 1)); do
        head -c "$n" a.sq >cut.sq
        run -3 sq-dump --check cut.sq
        run -3 sq-dump cut.sq
        run -3 sq-dump --digest cut.sq
    done
    run -1 gen_stream --fault abort -o b.sq
    [ ! -e b.sq ]
    gen_stream --fault abort >b.sq 2>/dev/null || true
    run -3 --separate-stderr sq-dump --check b.sq
    [ "$stderr" = "sq-dump: error: 'b.sq': gen_stream failed: layer 1 is rotten" ]
}

@test "dump --check: a flipped bit in a tensor is noticed and placed" {
    at=$(grep -abo 'mlp.down_proj.weight' a.sq | head -1 | cut -d: -f1)
    cp a.sq b.sq
    printf '\377' | dd of=b.sq bs=1 seek=$((at + 400)) conv=notrunc status=none
    run -4 sq-dump --check b.sq
    [[ $output == *"tensor 'mlp.down_proj.weight'"*"digest"* ]]
}

@test "dump --digest: the content counts, provenance does not" {
    d=$(sq-dump --digest a.sq)
    [[ $d =~ ^[0-9a-f]{16}$ ]]
    [ "$(copy_stream <a.sq | sq-dump --digest)" = "$d" ]
    [ "$(gen_stream --no-prov | sq-dump --digest)" = "$d" ]
    [ "$(gen_stream --nudge 0.001 | sq-dump --digest)" != "$d" ]
    [ "$(gen_stream --state final | sq-dump --digest)" != "$d" ]
    [ "$(gen_stream --layers 3 | sq-dump --digest)" != "$d" ]
}

@test "dump --cmp: equal, nearly equal, different" {
    copy_stream <a.sq >b.sq
    run -0 sq-dump --cmp a.sq b.sq
    [ "$output" = "21 tensors are equal" ]
    gen_stream --nudge 0.0001 >b.sq
    run -4 --separate-stderr sq-dump --cmp a.sq b.sq
    [[ $stderr == *"1 difference, the first: tensor 'mlp.up_proj.weight' of layer 1: 1 of 384 values differ, at most by 0.0001"* ]]
    run -0 sq-dump --cmp --tolerance 0.001 a.sq b.sq
    run -4 sq-dump --cmp --tolerance 0.00001 a.sq b.sq
    gen_stream --state learning >b.sq
    run -4 sq-dump --cmp a.sq b.sq
    [[ $output == *"layer 0: "*'"state":"float"'*'"state":"learning"'* ]]
    gen_stream --layers 3 >b.sq
    run -4 sq-dump --cmp a.sq b.sq
    head -c 9000 a.sq >b.sq
    run -3 sq-dump --cmp a.sq b.sq
    copy_stream <a.sq | sq-dump --cmp a.sq -
}

@test "dump --tensor: statistics and values; names with and without layer" {
    run -0 sq-dump --tensor model.layers.1.mlp.up_proj.weight --values 3 a.sq
    [[ $output == *"384 values: min -0.97"* ]]
    [[ $output == *"... 381 more"* ]]
    one=$output
    run -0 sq-dump --tensor mlp.up_proj.weight --layer 1 --values 3 a.sq
    [ "$output" = "$one" ]
    run -0 sq-dump --tensor mlp.up_proj.weight --values 3 a.sq
    [ "$output" != "$one" ]
    run -0 sq-dump --tensor model.norm.weight --json --values 2 a.sq
    [[ $output == *'"count":16'*'"values":['* ]]
    run -1 sq-dump --tensor nobody a.sq
}

@test "dump --prov: the stages in their order" {
    copy_stream --seed 9 <a.sq >b.sq
    run -0 sq-dump --prov b.sq
    [ "${#lines[@]}" = 2 ]
    [[ ${lines[0]} == "gen_stream "* ]]
    [[ ${lines[1]} == "copy_stream --seed=9 "*"seed 9"* ]]
    gen_stream --no-prov >b.sq
    run -0 sq-dump --prov b.sq
    [ -z "$output" ]
}
