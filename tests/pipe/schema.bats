# Real streams against schemas/*.json, and the examples that read and write them
bats_require_minimum_version 1.5.0

setup() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    build=${SQ_BUILD:-$ROOT/build/gcc}
    export PATH="$build/bin:$build/gen:$PATH"
    cd "$BATS_TEST_TMPDIR" || return 1
}

# the first Python that has the modules named
python_with() {
    local p
    for p in python3 /usr/bin/python3; do
        "$p" -c "import $1" 2>/dev/null && echo "$p" && return
    done
    return 1
}

@test "schema: every header of generated streams, in every state" {
    for state in float learning final merged; do
        gen_stream --state $state >$state.sq
    done
    copy_stream <merged.sq >copy.sq
    gen_stream --big 65 >big.sq
    gen_stream --fault abort >abort.sq 2>/dev/null || true
    run -0 python3 "$ROOT/tests/schema_check.py" ./*.sq
    [ "${#lines[@]}" = 7 ]
    [[ $output == *"./abort.sq abort:1 "* ]]
    [[ $output == *"./big.sq begin:1 chunk:2 end:1 tensor:1"* ]]
}

@test "schema: what sq-load writes of examples/tiny" {
    sq-load "$ROOT/examples/tiny" >a.sq
    run -0 python3 "$ROOT/tests/schema_check.py" a.sq
    [[ $output == *" layer:16 model:1 tensor:74" ]]
    run -0 sq-dump --check a.sq
}

@test "schema: what the whole pipeline writes" {
    for p in sq-calib sq-window sq-merge; do
        [ -x "$(command -v $p)" ] || skip "skipped: $p is not built"
    done
    sq-load "$ROOT/examples/tiny" | sq-calib -t "$ROOT/examples/tiny/calib.txt" -n 6 -l 32 >calib.sq
    sq-window -s W3A16 --rate 1 --schedule fixed:2,2 --windows 0-1 --epochs 1 <calib.sq >one.sq
    sq-window -s W3A16 --rate 1 --schedule fixed:2,2 --windows 2-3 --epochs 1 <one.sq >two.sq
    sq-merge --embed W8g32 <two.sq >merged.sq
    for s in calib one two merged; do
        run -0 sq-dump --check $s.sq
        run -0 python3 "$ROOT/tests/schema_check.py" $s.sq
    done
    [[ $(python3 "$ROOT/tests/schema_check.py" one.sq) == *" cursor:2 "*" window:"* ]]
}

@test "schema: the checker notices what is wrong" {
    gen_stream >a.sq
    while read -r from to; do
        LC_ALL=C sed "s/$from/$to/" a.sq >b.sq
        run -1 python3 "$ROOT/tests/schema_check.py" b.sq
    done <<'END'
float flaot
xxh3 xxh9
samples simples
magic magik
\xa3i32 \xa3x32
END
    head -c 3000 a.sq >b.sq
    run -1 python3 "$ROOT/tests/schema_check.py" b.sq
}

@test "examples: lesson 00 reads a stream and notices a cut" {
    gen_stream >a.sq
    run -0 "$build/examples/00_read_stream" a.sq
    [ "${lines[1]}" = "4944 weights in 21 tensors" ]
    head -c 5000 a.sq >b.sq
    run -3 "$build/examples/00_read_stream" b.sq
}

@test "examples: lesson 01 filters: gains change, nothing else" {
    gen_stream >a.sq
    "$build/examples/01_write_filter" --factor 1 <a.sq >b.sq
    run -0 sq-dump --cmp a.sq b.sq
    "$build/examples/01_write_filter" -i a.sq -o b.sq
    run -0 sq-dump --check b.sq
    run -4 sq-dump --cmp a.sq b.sq
    [ "$(grep -c 'layernorm.weight' <<<"$output")" -ge 4 ]
    run -0 sq-dump --prov b.sq
    [ "${#lines[@]}" = 2 ]
}

@test "examples: Python reads a stream and writes the same bytes" {
    py=$(python_with msgpack,xxhash) || skip "skipped: python3-msgpack or python3-xxhash is absent"
    gen_stream --no-prov >a.sq
    "$py" "$ROOT/examples/read_write_stream.py" <a.sq >b.sq 2>list
    cmp a.sq b.sq
    [ "$(wc -l <list)" = 21 ]
    head -c 5000 a.sq >cut.sq
    run -1 "$py" "$ROOT/examples/read_write_stream.py" <cut.sq
}
