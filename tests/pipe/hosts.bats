# Hosts as network namespaces, with keys or ssh: streams, two passes at once, fan-out, workers, a cable that is cut
bats_require_minimum_version 1.5.0

setup() {
    root=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    build=${SQ_BUILD:-$root/build/gcc}
    mkdir -p "$BATS_TEST_TMPDIR/empty" && cd "$BATS_TEST_TMPDIR/empty" || return 1
    export PATH="$build/bin:$build/gen:$PATH" OMP_WAIT_POLICY=passive
    . "$root/tests/net.bash"
    sq-dump --version | grep -q '^zeromq yes' || skip "skipped: built without ZeroMQ"
}

teardown() {
    end_all
}

# what the connecting and the binding side of a cable between host 1 and host K say about keys
from1() { echo "--key key1 --server key$1.pub"; }
at() { echo "--key key$1 --allow key1.pub"; }

window=(sq-window -s W2A16 --threads 1 --batch 2 --no-prov)

calibration() { # tiny.sq
    sq-load "$root/examples/tiny" | sq-calib -t "$root/examples/tiny/calib.txt" -n 4 -l 32 --heldout 1 -o tiny.sq
}

# shellcheck disable=SC2046,SC2086
@test "hosts: a stream arrives; a cable that is cut is an error on both sides in time" {
    hosts 2
    gen_stream --no-prov >a.sq
    start reader $on-2 copy_stream --no-prov -i tcp://10.99.2.2:5555 -o b.sq $(at 2)
    $on-1 gen_stream --no-prov -o tcp://10.99.2.2:5555 $(from1 2)
    wait "$pid"
    cmp a.sq b.sq

    start reader $on-2 copy_stream -i 'tcp://*:5555' -o c.sq $(at 2) --timeout 4
    reader=$pid
    start writer $on-1 gen_stream --big 100000 -o tcp://10.99.2.2:5555 $(from1 2) --timeout 4
    writer=$pid
    sleep 2
    kill -0 "$writer"
    cable 2 down
    from=$SECONDS
    status_of "$reader"
    [ "$got" -eq 3 ]
    status_of "$writer"
    [ "$got" -eq 3 ]
    [ $((SECONDS - from)) -le 7 ]
    grep "lost the writer" reader.err
    grep "lost the reader" writer.err
    [ ! -e c.sq ]
}

# two_passes: the first pass on host 1, the second on host 2, of tiny.sq into two.sq; their numbers in $first and $second
two_passes() {
    # shellcheck disable=SC2046,SC2086
    {
        start second $on-2 "${window[@]}" --epochs 8 --rate 1.0 -i 'tcp://*:5555' -o two.sq $(at 2) "$@" --work w2
        second=$pid
        start first $on-1 "${window[@]}" --epochs 8 --rate 0.5 -i tiny.sq -o tcp://10.99.2.2:5555 $(from1 2) "$@" --work w1
        first=$pid
    }
}

finished() { # finished FOLDER: windows kept there
    find "$1" -name 'stage-*.sq' | wc -l
}

@test "hosts: two passes at once on two hosts end like one process; cut in the middle they go on with the same bytes" {
    hosts 2
    calibration
    "${window[@]}" --epochs 8 -i tiny.sq -o one.sq
    mkdir w1 w2
    two_passes --timeout 2
    for _ in $(seq 400); do
        [ "$(finished w2)" -eq 0 ] || break
        sleep 0.05
    done
    kill -0 "$first"
    cable 2 down
    status_of "$first"
    [ "$got" -eq 3 ]
    grep "sq-window: error: 'tcp://10.99.2.2:5555': lost the reader" first.err
    status_of "$second"
    [ "$got" -eq 3 ]
    grep "'tcp://\*:5555': lost the writer" second.err
    [ ! -e two.sq ]
    kept=$(finished w1)
    echo "$kept windows of the first pass, $(finished w2) of the second finished"
    [ "$kept" -gt 0 ]
    [ "$(finished w2)" -gt 0 ]

    cable 2 up
    two_passes
    status_of "$first"
    [ "$got" -eq 0 ]
    status_of "$second"
    [ "$got" -eq 0 ]
    cmp one.sq two.sq
}

# shellcheck disable=SC2046,SC2086
@test "hosts: jobs that three hosts learn come back into the bytes of one host" {
    hosts 4
    calibration
    "${window[@]}" --epochs 4 --schedule blocks:3 --jobs jobs -i tiny.sq
    mkdir here there
    k=2
    while IFS=$'\t' read -r id input _ output; do
        "${window[@]}" --config jobs/arguments --job "jobs/$input" -o "here/$output"
        start "result$k" $on-1 copy_stream --no-prov -i "tcp://10.99.$k.1:5556" -o "there/$output" --key key1 --allow "key$k.pub"
        results+=("$pid")
        start "worker$k" $on-$k "${window[@]}" --config jobs/arguments --job "tcp://10.99.$k.$k:5555" -o "tcp://10.99.$k.1:5556" \
            $(at $k) --server key1.pub
        start "sender$k" $on-1 copy_stream --no-prov -i "jobs/$input" -o "tcp://10.99.$k.$k:5555" $(from1 $k)
        k=$((k + 1))
    done <jobs/plan.tsv
    [ "$k" -eq 5 ]
    for p in "${pids[@]}"; do wait "$p"; done
    (cd here && sq-merge --no-prov ./*.out <../tiny.sq >../here.sq)
    # a duplicate, and another order
    cp there/003-005.out there/again.out
    (cd there && sq-merge --no-prov again.out 006-007.out 003-005.out 000-002.out <../tiny.sq >../there.sq)
    cmp here.sq there.sq
}

# spread OPTIONS: workers on hosts 2 and 3, which connect; host 1 learns tiny.sq into out.sq; their numbers in $near, $far, $boss
spread() {
    # shellcheck disable=SC2086
    {
        start near $on-2 sq-window --worker --threads 1 -i '>tcp://10.99.2.1:5601' -o tcp://10.99.2.1:5602 --key key2 --server key1.pub "$@"
        near=$pid
        start far $on-3 sq-window --worker --threads 1 -i '>tcp://10.99.3.1:5603' -o tcp://10.99.3.1:5604 --key key3 --server key1.pub "$@"
        far=$pid
        start boss $on-1 "${window[@]}" "${three[@]}" --work work --metrics m.json --key key1 --allow workers.pub "$@" -o out.sq \
            --workers '@tcp://*:5601,tcp://*:5602' --workers '@tcp://10.99.3.1:5603,tcp://10.99.3.1:5604'
        boss=$pid
    }
}

@test "hosts: workers on two hosts and the one that learns end like one process; cut off in the middle one is named, and the run goes on" {
    hosts 3
    calibration
    cat key2.pub key3.pub >workers.pub
    three=(--epochs 4 --batch 3 --shards 3 -i tiny.sq)
    "${window[@]}" "${three[@]}" -o one.sq
    mkdir work
    spread --timeout 2
    for _ in $(seq 400); do
        [ "$(finished work)" -lt 2 ] || break
        sleep 0.05
    done
    kill -0 "$boss"
    cable 3 down
    from=$SECONDS
    status_of "$boss"
    [ "$got" -eq 3 ]
    for p in "$near" "$far"; do
        status_of "$p"
        [ "$got" -eq 3 ]
    done
    [ $((SECONDS - from)) -le 7 ]
    cat boss.err near.err far.err
    [ "$(wc -l <boss.err)" -eq 1 ]
    grep "^sq-window: error: worker 2 of 2: '@*tcp://10.99.3.1:560[34]': lost the " boss.err
    grep "failed: worker 2 of 2: '@*tcp://10.99.3.1:560[34]': lost the " near.err
    grep "'>*tcp://10.99.3.1:560[34]': lost the " far.err
    [ ! -e out.sq ]
    kept=$(finished work)
    [ "$kept" -ge 2 ]

    cable 3 up
    spread
    for p in "$boss" "$near" "$far"; do
        status_of "$p"
        [ "$got" -eq 0 ]
    done
    cmp one.sq out.sq
    [ "$(tail -n 1 m.json | sed -n 's/.*"restored":\([0-9]*\).*/\1/p')" -eq "$kept" ]

    rm out.sq work/stage-*
    spread
    status_of "$boss"
    [ "$got" -eq 0 ]
    cmp one.sq out.sq
}

# shellcheck disable=SC2086
@test "hosts: workers.sh over ssh makes the file of one process; cut off it says which host, and the same command goes on" {
    hosts 3
    ssh_to 2 3
    export SAMPLES=4 LENGTH=64 WORKER="--threads 1" SSH="$ssh -o ServerAliveInterval=1 -o ServerAliveCountMax=2"
    of=("$root/examples/tiny" "$root/examples/tiny/calib.txt" W2A16)
    "$root/pipelines/quantize.sh" "${of[@]}" one.gguf --epochs 4 --threads 1 --batch 3 --shards 3 >/dev/null 2>&1
    spread=($on-1 "$root/pipelines/workers.sh" 10.99.2.2,10.99.3.3 "${of[@]}" two.gguf --epochs 4 --threads 1)
    mkdir two.gguf.work
    start recipe "${spread[@]}" >/dev/null
    for _ in $(seq 400); do
        [ "$(finished two.gguf.work)" -lt 2 ] || break
        sleep 0.05
    done
    cable 3 down
    status_of "$pid"
    cat recipe.err
    [ "$got" -eq 3 ]
    [ "$took" -le 7 ]
    grep "server 10.99.3.3 not responding" recipe.err
    grep "^sq-window: error: worker 2 of 2: .*/2.10.99.3.3.[tf]" recipe.err
    [ ! -e two.gguf ]
    [ "$(finished two.gguf.work)" -ge 2 ]

    cable 3 up
    for _ in $(seq 20); do # for a second or so it is still held unreachable
        $on-1 $ssh 10.99.3.3 true || continue
        break
    done
    "${spread[@]}" >again 2>&1 || { cat again && false; }
    cmp one.gguf two.gguf
    [ ! -e two.gguf.work ]
}
