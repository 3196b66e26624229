# What happens to a stream between processes: whole, cut, given up, full, nobody reads, nobody writes
bats_require_minimum_version 1.5.0

setup() {
    mkdir -p "$BATS_TEST_TMPDIR/empty" && cd "$BATS_TEST_TMPDIR/empty" || return 1
    export PATH="${SQ_BUILD:-$BATS_TEST_DIRNAME/../../build/gcc}/bin:${SQ_BUILD:-$BATS_TEST_DIRNAME/../../build/gcc}/gen:$PATH"
}

@test "stream: pipe, file, FIFO and descriptor give the same bytes" {
    gen_stream --no-prov >a.sq
    gen_stream --no-prov -o b.sq
    cmp a.sq b.sq
    copy_stream --no-prov <a.sq | copy_stream --no-prov >b.sq
    cmp a.sq b.sq
    copy_stream --no-prov -i a.sq -o b.sq
    cmp a.sq b.sq
    copy_stream --no-prov -i fd:7 -o fd:8 7<a.sq 8>b.sq
    cmp a.sq b.sq
    mkfifo f
    gen_stream --no-prov -o f &
    copy_stream --no-prov -i f >b.sq
    wait
    cmp a.sq b.sq
    [ -p f ]
}

@test "stream: truncated input is status 3 and gives no file" {
    run -3 --separate-stderr bash -o pipefail -c 'gen_stream | head -c 5000 | copy_stream -o out.sq'
    [[ $stderr == "copy_stream: error: input ended inside tensor '"*"'" ]]
    [ ! -e out.sq ]
    [ -z "$(ls)" ]
    run -3 --separate-stderr copy_stream -o out.sq </dev/null
    [ "$stderr" = "copy_stream: error: input ended before the first record" ]
}

@test "stream: the culprit is 1, those behind it 3 and they say who" {
    run bash -c 'gen_stream --fault abort 2>/dev/null | copy_stream 2>/dev/null | copy_stream -o out.sq; echo "${PIPESTATUS[@]}"'
    [[ ${lines[-1]} == "1 3 3" ]]
    [ "${lines[0]}" = "copy_stream: error: copy_stream failed: gen_stream failed: layer 1 is rotten" ]
    [ ! -e out.sq ]
}

@test "stream: a stage that is killed makes the rest fail with 3" {
    mkfifo f
    gen_stream --fault stall >f &
    pid=$!
    (sleep 0.3; kill -9 "$pid") &
    run -3 --separate-stderr copy_stream -i f -o out.sq
    [[ $stderr == *"input ended after layer 0, without an end record"* ]]
    [ ! -e out.sq ]
}

@test "stream: a full disk is status 1" {
    run -1 --separate-stderr gen_stream -o /dev/full
    [[ $stderr == *"cannot write '/dev/full': No space left on device"* ]]
    run -1 bash -c 'gen_stream >/dev/full'
    [ -c /dev/full ]
    run -1 bash -c 'ulimit -f 4; trap "" XFSZ; gen_stream -o out.sq'
    [ -z "$(ls)" ]
}

@test "stream: a reader that leaves early ends the writer quietly" {
    run bash -c 'gen_stream --big 8 | head -c 100 >/dev/null; echo "${PIPESTATUS[@]}"'
    [ "$output" = "141 0" ]
}

@test "stream: terminals are refused" {
    command -v script >/dev/null || skip "skipped: script(1) is absent"
    run script -qec gen_stream /dev/null
    [ "$status" -eq 1 ]
    [[ $output == *"no stream is written to a terminal"* ]]
    gen_stream >a.sq
    run script -qec "copy_stream <a.sq" /dev/null
    [ "$status" -eq 1 ]
    run script -qec "copy_stream >/dev/null" /dev/null
    [ "$status" -eq 1 ]
    [[ $output == *"no stream is read from a terminal"* ]]
}

@test "stream: two streams behind each other are refused" {
    gen_stream >a.sq
    cat a.sq a.sq >b.sq
    run -1 --separate-stderr copy_stream -i b.sq -o out.sq
    [[ $stderr == *"bytes follow the end record"* ]]
    [ ! -e out.sq ]
}

@test "stream: an output replaces an older file only when it is complete" {
    echo old >out.sq
    run -1 gen_stream --fault abort -o out.sq
    [ "$(cat out.sq)" = old ]
    gen_stream -o out.sq
    sq-dump --check out.sq
    ln -s out.sq link.sq
    gen_stream --layers 3 -o link.sq
    [ -L link.sq ]
    [[ $(sq-dump --check out.sq) == *"3 layers"* ]]
}

@test "stream: copying a large tensor takes little memory" {
    command -v /usr/bin/time >/dev/null || skip "skipped: time(1) is absent"
    gen_stream --big 200 | /usr/bin/time -f %M -o kib copy_stream >/dev/null
    [ "$(cat kib)" -lt 40000 ]
}
