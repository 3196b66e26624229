# SQ_FAULT: the N-th allocation, open, read, write, sync or rename fails, for N = 0 ... until the program succeeds
bats_require_minimum_version 1.5.0

setup() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    build=${SQ_BUILD:-$ROOT/build/gcc}
    export PATH="$build/bin:$build/gen:$PATH" OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
    cd "$BATS_TEST_TMPDIR" || return 1
}

# each KINDS LEAST COMMAND...: every fault of these kinds is status 1, one line of the program, and neither out nor anything
# temporary ($never); hook, a function, may look closer. At least LEAST faults hit. The last run, without a fault, leaves out.
each() {
    local kinds=$1 least=$2 prog=$3 hit=0 kind n status
    shift 2
    for kind in $kinds; do
        for ((n = 0; n < 5000; n += step)); do
            rm -rf out out.*
            status=0
            SQ_FAULT=$kind:$n $around "$@" >stdout 2>err || status=$?
            [ $status -ne 0 ] || break
            hit=$((hit + 1))
            if [ $status -ne 1 ] || [ "$(wc -l <err)" -ne 1 ] || ! grep -q "^$prog: error: ..." err || [ -n "$(ls -d $never 2>/dev/null)" ]; then
                echo "$prog $kind:$n: status $status, left: $(ls -d $never 2>/dev/null)"
                head -30 err
                return 1
            fi
            hook || { echo "$prog $kind:$n: what came after it"; return 1; }
        done
    done
    echo "$prog: $hit faults"
    [ $hit -ge "$least" ] && [ ! -s err ] && [ $n -lt 5000 ]
}

hook() { :; }
step=1 # of N
around= # what runs the command
never="out out.*"

all="open read write sync rename alloc"

@test "fault: a bad SQ_FAULT is status 2" {
    for text in alloc:x alloc:-1 alloc 3 nothing:1 alloc:1x ""; do
        SQ_FAULT=$text run -2 --separate-stderr sq-dump
        [[ ${stderr_lines[0]} == "sq-dump: error: SQ_FAULT is '$text', not alloc, open, "* ]]
    done
}

@test "fault: sq-load" {
    tiny_model --dtype bf16 model >/dev/null
    each "$all" 50 sq-load -q -o out model
    sq-dump --check out
}

@test "fault: sq-calib" {
    tiny_stream 2 0 0 0 >in.sq
    seq 0 63 >ids
    each "$all" 100 sq-calib -q --stats --ids ids -n 2 -l 8 -i in.sq -o out
}

tiny="-q -s W4A4 --threads 1 --schedule layer --epochs 1 --batch 1 --no-prov -i in.sq -o out"

@test "fault: sq-window" {
    tiny_stream 2 2 4 1 >in.sq
    # shellcheck disable=SC2086
    each "$all" 200 sq-window $tiny --spill .
}

@test "fault: sq-window on a device" {
    tiny_stream 2 2 4 1 >in.sq
    export SQ_CUDA_LIB="$build/lib/sq/libsq_emu.so"
    step=83 # emulated: a second each
    # shellcheck disable=SC2086
    each alloc 8 sq-window $tiny --backend cuda
}

@test "fault: sq-window with a work folder; the next run ends with the same bytes" {
    local one="$tiny --rate 1 --learn lwc"
    tiny_stream 2 2 4 1 >in.sq
    # shellcheck disable=SC2086
    sq-window $one
    mv out ref
    mkdir folder
    hook() {
        # shellcheck disable=SC2086
        sq-window $one --work folder && cmp ref out && [ -z "$(ls folder | grep tmp)" ] || return 1
        rm -f folder/*
    }
    # shellcheck disable=SC2086
    each "open read write sync rename" 50 sq-window $one --work folder
    hook() { rm -f folder/*; }
    # with finished windows in it: nothing of them may go
    sq-window $one --work folder
    hook() {
        [ "$(ls folder | wc -l)" -eq 3 ]
    }
    # shellcheck disable=SC2086
    each "open read write sync rename" 50 sq-window $one --work folder
    cmp ref out
}

@test "fault: jobs: no plan before all of it is there; the next run begins anew" {
    local jobs="-q -s W2A16 --threads 1 --schedule blocks:1 --no-prov -i in.sq"
    tiny_stream 2 2 4 1 >in.sq
    # shellcheck disable=SC2086
    sq-window $jobs --jobs ref
    never="out/plan.tsv out/*.sq-tmp-*"
    hook() {
        # shellcheck disable=SC2086
        sq-window $jobs --jobs out && diff -r ref out
    }
    # shellcheck disable=SC2086
    each "$all" 100 sq-window $jobs --jobs out
    diff -r ref out
}

@test "fault: sq-window and its worker" {
    local one="$tiny --rate 1 --batch 2 --shards 2"
    tiny_stream 2 3 4 1 >in.sq
    # shellcheck disable=SC2086
    sq-window $one
    mv out ref
    mkfifo to from tee
    sq-window() { # with a worker that has no faults
        env -u SQ_FAULT sq-window --worker --threads 1 <to >from 2>worker.err &
        local status=0
        command sq-window "$@" --workers to,from || status=$?
        kill $! 2>/dev/null
        wait
        return $status
    }
    # shellcheck disable=SC2086
    each "open read write" 50 sq-window $one
    cmp ref out
    unset -f sq-window
    tee sent <to >tee &
    sq-window --worker -i tee -o from --threads 1 &
    # shellcheck disable=SC2086
    sq-window $one --workers to,from
    wait
    each "$all" 100 sq-window --worker -q --threads 1 -i sent -o out
}

@test "fault: sq-merge" {
    tiny_stream 2 0 0 0 >in.sq
    each "$all" 100 sq-merge -q -s W3A16 --embed W8 -i in.sq -o out
}

@test "fault: sq-pack, as gguf, hf and stream" {
    tiny_model --dtype bf16 model >/dev/null
    sq-load model | sq-merge -s W4A16g32 -o in.sq
    each "$all" 100 sq-pack -q -f gguf -i in.sq -o out
    each "$all" 100 sq-pack -q -f hf -i in.sq -o out
    each "$all" 50 sq-pack -q -f sq -i in.sq -o out
}

@test "fault: sq-eval and sq-dump" {
    tiny_model --dtype bf16 model >/dev/null
    sq-load model | sq-merge -s W4A16g32 -o in.sq
    seq 0 63 >ids
    each "open read alloc" 50 sq-eval -q --ids ids -l 8 in.sq
    each "open read alloc" 50 sq-dump -q --check in.sq
    each "open read alloc" 20 sq-dump -q in.sq
}

# with_peer COMMAND...: the command, beside $peer, which is the sound other side of its endpoint
with_peer() {
    local status=0 beside
    env -u SQ_FAULT "${peer[@]}" >peer.sq 2>peer.err &
    beside=$!
    "$@" || status=$?
    [ $status -eq 0 ] || kill $beside 2>/dev/null || true # it may wait for somebody who never came
    wait $beside 2>/dev/null || [ $status -ne 0 ] || status=99
    return $status
}

@test "fault: endpoints, with keys and without, on both sides" {
    sq-dump --version | grep -q '^zeromq yes' || skip "skipped: built without ZeroMQ"
    around=with_peer
    peer=(copy_stream --no-prov -i ipc://s)
    each "open alloc" 10 gen_stream --big 1 --no-prov -o ipc://s
    gen_stream --big 1 --no-prov >ref.sq
    cmp ref.sq peer.sq
    peer=(gen_stream --big 1 --no-prov -o ipc://s)
    each "open alloc" 10 copy_stream --no-prov -i ipc://s -o out
    cmp ref.sq out
    at=tcp://127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    sq-dump --keygen k
    peer=(gen_stream --big 1 --no-prov -o "$at" --key k --server k.pub)
    each "open alloc" 15 copy_stream --no-prov -i "$at" -o out --key k --allow k.pub
    cmp ref.sq out
    around=
    each "open write sync" 3 sq-dump -q --keygen out
}
