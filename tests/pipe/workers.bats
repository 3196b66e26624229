# sq-window --workers: parts of every batch computed elsewhere, with the bytes of one process; what is heard of a worker that
# fails
bats_require_minimum_version 1.5.0

setup() {
    root=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    build=${SQ_BUILD:-$root/build/gcc}
    export PATH="$build/bin:$build/gen:$PATH" OMP_WAIT_POLICY=passive
    cd "$BATS_TEST_TMPDIR" || return 1
    pids=()
    tiny_stream 5 6 8 2 >in.sq
}

teardown() {
    local p
    for p in "${pids[@]}"; do
        kill -CONT "$p" 2>/dev/null && kill -KILL "$p" 2>/dev/null
    done
    wait
    true
}

args="-q -s W2A16 --no-prov --threads 1 --schedule slider:2,2 --epochs 2 -i in.sq"

zmq() {
    sq-dump --version | grep -q '^zeromq yes' || skip "skipped: built without ZeroMQ"
}

port() { # a port of loopback that nobody uses
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

worker() { # worker NUMBER [options]: in the background, its number in $pid, its stderr in w.NUMBER
    sq-window --worker --threads 1 "${@:2}" 2>"w.$1" &
    pid=$!
    pids+=("$pid")
}

fifos() { # fifos N [options of the workers]: so many workers behind fifos; ${with[@]} are the options that use them
    local i
    with=()
    for ((i = 1; i <= $1; i++)); do
        rm -f "to$i" "from$i"
        mkfifo "to$i" "from$i"
        worker "$i" -i "to$i" -o "from$i" "${@:2}"
        with+=(--workers "to$i,from$i")
    done
}

all_end() { # every worker, with status 0
    local p
    for p in "${pids[@]}"; do
        wait "$p" || return 1
    done
    pids=()
}

@test "workers: the number of parts decides the bytes, who computes them does not" {
    for scheme in W2A16 W4A4 "W3A16g16 --order window --precision f32"; do
        for shards in 1 2 3; do
            # shellcheck disable=SC2086
            sq-window $args -s $scheme --shards $shards -o ref.$shards.sq
            for ((n = 1; n <= shards; n++)); do
                precision=
                [[ $scheme != *f32* ]] || precision="--precision f32"
                # shellcheck disable=SC2086
                fifos $n $precision
                # shellcheck disable=SC2086
                timeout 60 sq-window $args -s $scheme --shards $shards "${with[@]}" -o out.sq
                cmp ref.$shards.sq out.sq
                all_end
            done
        done
        run ! cmp -s ref.1.sq ref.2.sq
        run ! cmp -s ref.2.sq ref.3.sq
    done
}

@test "workers: threads and --spill of either side change nothing, nor do batches smaller than their parts" {
    tiny_stream 5 9 8 2 >in.sq # epochs of 7: batches of 4 and 3
    sq-window $args --batch 4 --shards 4 -o ref.sq
    mkdir spill
    fifos 2 --threads 2 --spill spill
    timeout 60 sq-window $args --batch 4 --shards 4 --threads 2 "${with[@]}" -o out.sq
    cmp ref.sq out.sq
    all_end
    [ -z "$(ls spill)" ]
}

@test "workers: forwards that are computed again for --memory change nothing" {
    sq-load "$root/examples/tiny" | sq-calib -t "$root/examples/tiny/calib.txt" -n 2 -l 512 --heldout 0 -o in.sq
    few="-s W2A16 --no-prov --threads 1 --epochs 1 --rate 0.5 --windows 3-3 --batch 2 --shards 2 -i in.sq"
    sq-window -q $few -o ref.sq
    run -0 sq-window $few --dry-run
    [[ $output =~ "peak memory "[\ ]*([0-9]+)"."[0-9]" MB, "([0-9]+)"."[0-9]" MB at the least" ]]
    fifos 1
    timeout 60 sq-window -v $few --memory $(((BASH_REMATCH[1] + BASH_REMATCH[2]) / 2))M "${with[@]}" -o out.sq 2>err
    grep -q "computes forwards again" err
    cmp ref.sq out.sq
    all_end
}

@test "workers: over ipc, and over tcp with keys, bound by either side" {
    zmq
    sq-window $args --shards 2 -o ref.sq
    worker 1 -i ipc://t1 -o ipc://f1
    timeout 60 sq-window $args --shards 2 --workers ipc://t1,ipc://f1 -o out.sq
    cmp ref.sq out.sq
    all_end
    for k in boss one two; do sq-dump --keygen $k; done
    cat one.pub two.pub >workers.pub
    with=()
    for i in one two; do
        to=tcp://127.0.0.1:$(port)
        from=tcp://127.0.0.1:$(port)
        worker $i -i ">$to" -o "$from" --key $i --server boss.pub
        with+=(--workers "@$to,$from")
    done
    timeout 60 sq-window $args --shards 2 "${with[@]}" --key boss --allow workers.pub -o out.sq
    cmp ref.sq out.sq
    all_end
}

@test "workers: what goes both ways is as schemas/ says" {
    mkfifo to from to.w from.w
    tee to.sq <to >to.w &
    pids+=("$!")
    tee from.sq <from.w >from &
    pids+=("$!")
    worker 1 -i to.w -o from.w --no-prov
    timeout 60 sq-window $args --shards 2 --workers to,from -o out.sq
    all_end
    run -0 python3 "$root/tests/schema_check.py" to.sq from.sq
    echo "$output"
    [[ ${lines[0]} == *"share:12 step:"*" worker:1" ]]
    [[ ${lines[1]} == *"gradient:"*" worker:1" ]]
}

@test "workers: options that contradict each other are status 2" {
    run -2 --separate-stderr sq-window $args --workers a,b --workers c,d
    [[ $stderr == *"2 workers for --shards 1"* ]]
    run -2 --separate-stderr sq-window $args --shards 4
    [[ $stderr == *"--shards 4 are more than the samples of --batch 3"* ]]
    run -2 --separate-stderr sq-window --worker -s W2A16
    [[ $stderr == *"leave out --scheme"* ]]
    for bad in a a, ,b a,b,c; do
        run -1 --separate-stderr sq-window $args --workers "$bad" -o out.sq
        [[ $stderr == *"TO,FROM, not '$bad'"* ]]
    done
    run -1 --separate-stderr sq-window $args --workers -,b -o out.sq
    [[ $stderr == *"standard input and output are the model's"* ]]
    [ ! -e out.sq ]
}

# ---- what fails ----

long="--epochs 300 --shards 2" # seconds

status_of() { # status_of PID: its exit status into $got, the seconds waited into $took
    local from=$SECONDS
    got=0
    wait "$1" || got=$?
    took=$((SECONDS - from))
}

boss() { # boss [options]: the process that learns, in the background: $boss, its stderr in boss.err
    # shellcheck disable=SC2086
    sq-window $args $long "$@" -o out.sq 2>boss.err &
    boss=$!
    pids+=("$boss")
}

some_windows() { # until so many are finished in w
    local i
    for ((i = 0; i < 600; i++)); do
        [ "$(find w -name 'stage-*.sq' | wc -l)" -lt "$1" ] || return 0
        sleep 0.05
    done
    return 1
}

@test "workers: one that is killed is status 3 at once and named; the same command goes on, with the same bytes" {
    # shellcheck disable=SC2086
    sq-window $args $long -o ref.sq
    mkdir w
    for how in fifo ipc; do
        if [ $how = fifo ]; then
            fifos 2
        else
            zmq
            worker 1 -i ipc://t1 -o ipc://f1
            worker 2 -i ipc://t2 -o ipc://f2
            with=(--workers ipc://t1,ipc://f1 --workers ipc://t2,ipc://f2)
        fi
        boss --work w "${with[@]}"
        some_windows 2
        kill -9 "$pid"
        status_of "$boss"
        cat boss.err
        [ "$got" -eq 3 ]
        [ "$took" -le 5 ]
        [ "$(wc -l <boss.err)" -eq 1 ]
        grep "^sq-window: error: worker 2 of 2: " boss.err
        [ ! -e out.sq ]
        kept=$(find w -name 'stage-*.sq' | wc -l)
        status_of "${pids[0]}" # the other one
        [ "$got" -eq 3 ]
        grep "failed: worker 2 of 2" w.1
        fifos 2
        # shellcheck disable=SC2086
        timeout 60 sq-window $args $long --work w --metrics m.json "${with[@]}" -o out.sq
        cmp ref.sq out.sq
        [ "$(tail -n 1 m.json | sed -n 's/.*"restored":\([0-9]*\).*/\1/p')" -eq "$kept" ]
        rm -f out.sq m.json w/stage*
        pids=()
    done
}

@test "workers: a frozen one is given up within --timeout" {
    zmq
    worker 1 -i ipc://t1 -o ipc://f1
    boss --timeout 2 --workers ipc://t1,ipc://f1
    sleep 0.7
    kill -STOP "$pid"
    status_of "$boss"
    cat boss.err
    [ "$got" -eq 3 ]
    [ "$took" -le 4 ]
    grep "^sq-window: error: worker 1 of 1: 'ipc://[tf]1': lost the .* gave no sign of life for 2 s" boss.err
    [ ! -e out.sq ]
}

@test "workers: one that does not come is given up after --wait" {
    zmq
    run -3 --separate-stderr sq-window $args --wait 1 --workers ipc://t1,ipc://f1 -o out.sq
    [[ $stderr == "sq-window: error: worker 1 of 1: 'ipc://t1': no reader came within 1 s (--wait)" ]]
    [ ! -e out.sq ]
}

@test "workers: when the process that learns is killed, or stopped, they end" {
    for signal in KILL TERM; do
        fifos 1
        boss "${with[@]}"
        sleep 0.7
        kill -$signal "$boss"
        status_of "$pid"
        [ "$got" -eq 3 ]
        [ "$took" -le 5 ]
        [ $signal = KILL ] || grep "stopped by signal 15" w.1
        status_of "$boss"
        [ "$got" -gt 128 ]
        pids=()
    done
}

@test "workers: one that computes other bits is refused by name" {
    for other in "--backend ref" "--precision f32"; do
        # shellcheck disable=SC2086
        fifos 1 $other
        run -1 --separate-stderr timeout 60 sq-window $args --workers to1,from1 -o out.sq
        [[ $stderr == "sq-window: error: worker 1 of 1: 'from1' computes with 'sq "*"', this process with 'sq "*"', which is not the same bits; "*"--precision and SQ_ISA" ]]
        status_of "$pid"
        [ "$got" -eq 3 ]
        grep "failed: worker 1 of 1: 'from1' computes with" w.1
        [ ! -e out.sq ]
    done
}

@test "workers: endpoints that are mixed up are noticed" {
    fifos 2
    run -1 --separate-stderr timeout 60 sq-window $args --shards 2 --workers to1,from2 --workers to2,from1 -o out.sq
    [[ $stderr == "sq-window: error: worker 1 of 2: 'from2' answers as worker 2 of 2 of this run: endpoints were mixed up" ]]
    [ ! -e out.sq ]
}

@test "workers: a gradient that was not finite there ends an attempt here, which is made again" {
    mkfifo to from
    (timeout 60 sq-window --worker <to 2>w.1 | timeout 60 spoil_stream gradient-none >from 2>/dev/null) &
    timeout 60 sq-window $args --epochs 20 --shards 2 --workers to,from --metrics m.json -o out.sq
    wait
    [ "$(grep -c '"retries": *1' m.json)" -ge 1 ]
    [ "$(grep -c '"fallbacks": *1' m.json)" -eq 0 ]
}

@test "workers: gradients that are none are refused with one line" {
    while read -r what status text; do
        rm -f to from
        mkfifo to from
        (timeout 60 sq-window --worker <to 2>w.1 | timeout 60 spoil_stream "gradient-$what" >from 2>/dev/null) &
        run "-$status" --separate-stderr timeout 60 sq-window $args --epochs 20 --shards 2 --workers to,from -o out.sq
        echo "$stderr"
        [ "${#stderr_lines[@]}" -eq 1 ]
        [[ $stderr == "sq-window: error: worker 1 of 1: "$text ]]
        [ ! -e out.sq ]
        wait
    done <<'END'
nan 1 the gradient of part 1 of step 4: '*' has a NaN or Inf in it
short 1 * bytes, not the * of what is learned
step 1 the gradient of part 1 of step 7 where that of part 1 of step 4 should come
END
}

@test "workers: a model, a job, noise are no work" {
    sq-window $args --schedule blocks:2 --jobs j
    while read -r file text; do
        run -1 --separate-stderr sq-window --worker -i "$file" -o out.sq
        echo "$stderr"
        [[ $stderr == "sq-window: error: "$text ]]
        [ ! -e out.sq ]
    done <<'END'
in.sq a model record where a worker record should come
j/000-001.sq a job record where a worker record should come
/dev/urandom '/dev/urandom': record 1: *
END
}
