# Streams over ipc:// and tcp://: the same bytes, and what is heard of a peer that is killed, frozen, second, cut off, hostile
bats_require_minimum_version 1.5.0

setup() {
    root=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    build=${SQ_BUILD:-$root/build/gcc}
    mkdir -p "$BATS_TEST_TMPDIR/empty" && cd "$BATS_TEST_TMPDIR/empty" || return 1
    export PATH="$build/bin:$build/gen:$PATH"
    . "$root/tests/net.bash"
    sq-dump --version | grep -q '^zeromq yes' || skip "skipped: built without ZeroMQ"
}

teardown() {
    end_all
}

# write_to_a_busy_reader [options of the writer]: $writer has more than $reader can pass on
write_to_a_busy_reader() {
    mkfifo f
    sleep 60 <f &
    pids+=("$!")
    start reader copy_stream -i ipc://s -o f
    reader=$pid
    start writer gen_stream --big 500 -o ipc://s "$@"
    writer=$pid
}

@test "network: ipc and tcp, bound by either side, give the bytes of a pipe" {
    gen_stream --no-prov >a.sq
    p=$(port)
    for pair in "ipc://s ipc://s" "tcp://127.0.0.1:$p tcp://localhost:$p" ">ipc://t @ipc://t" ">tcp://[::1]:$p @tcp://[::1]:$p"; do
        # shellcheck disable=SC2086
        set -- $pair
        rm -f b.sq
        start reader copy_stream --no-prov -i "$1" -o b.sq
        gen_stream --no-prov -o "$2"
        wait "$pid"
        cmp a.sq b.sq
    done
    [ ! -e s ]
    [ ! -e t ]
    gen_stream --big 40 --no-prov >a.sq
    start reader copy_stream --no-prov -i "tcp://127.0.0.1:$p"
    gen_stream --big 40 --no-prov -o "tcp://127.0.0.1:$p" >b.sq
    start reader copy_stream --no-prov -i ipc://s -o b.sq
    gen_stream --big 40 --no-prov -o ipc://s
    wait "$pid"
    cmp a.sq b.sq
}

five_stages() { # five_stages OUT IN1 OUT1 IN2 OUT2 ...: the links between stages, as options
    local out=$1 work=("$root/examples/tiny")
    shift
    sq-load --no-prov "${work[@]}" -o "$2" "${keys[@]}" &
    sq-calib --no-prov -i "$1" -o "$4" -t "$root/examples/tiny/calib.txt" -n 2 -l 32 "${keys[@]}" &
    sq-window --no-prov -i "$3" -o "$6" -s W4A16 --schedule fixed:2,2 --epochs 1 "${keys[@]}" &
    sq-merge --no-prov -i "$5" -o "$8" "${keys[@]}" &
    sq-pack -q -i "$7" -o "$out" "${keys[@]}"
    for job in $(jobs -p); do
        wait "$job" || return 1
    done
}

@test "network: five stages over pipes, files, ipc and tcp with keys give the same file" {
    keys=()
    sq-load --no-prov "$root/examples/tiny" | sq-calib --no-prov -t "$root/examples/tiny/calib.txt" -n 2 -l 32 |
        sq-window --no-prov -s W4A16 --schedule fixed:2,2 --epochs 1 | sq-merge --no-prov | sq-pack -q -o pipe.gguf
    sq-load --no-prov "$root/examples/tiny" -o 1.sq
    sq-calib --no-prov -i 1.sq -o 2.sq -t "$root/examples/tiny/calib.txt" -n 2 -l 32
    sq-window --no-prov -i 2.sq -o 3.sq -s W4A16 --schedule fixed:2,2 --epochs 1
    sq-merge --no-prov -i 3.sq -o 4.sq
    sq-pack -q -i 4.sq -o file.gguf
    five_stages ipc.gguf ipc://1 ipc://1 ipc://2 ipc://2 ipc://3 ipc://3 ipc://4 ipc://4
    sq-dump --keygen k
    keys=(--key k --allow k.pub --server k.pub)
    ports=("$(port)" "$(port)" "$(port)" "$(port)")
    a=tcp://127.0.0.1:
    five_stages tcp.gguf $a"${ports[0]}" $a"${ports[0]}" $a"${ports[1]}" $a"${ports[1]}" $a"${ports[2]}" $a"${ports[2]}" \
        $a"${ports[3]}" $a"${ports[3]}"
    cmp pipe.gguf file.gguf
    cmp pipe.gguf ipc.gguf
    cmp pipe.gguf tcp.gguf
}

@test "network: memory is bounded on both sides, whoever is slow" {
    mkfifo f
    start reader peak r.kib copy_stream -i ipc://s -o f
    (sleep 2; cat >/dev/null) <f &
    peak w.kib gen_stream --big 300 -o ipc://s
    wait "$pid"
    bounded r.kib w.kib
}

@test "network: an abort and its reason reach the reader" {
    start reader copy_stream -i ipc://s -o out.sq
    run -1 gen_stream --fault abort -o ipc://s
    status_of "$pid"
    [ "$got" -eq 3 ]
    grep "gen_stream failed: layer 1 is rotten" reader.err
    [ ! -e out.sq ]
}

@test "network: a writer that is killed is an error of the reader, at once" {
    start reader copy_stream -i ipc://s -o out.sq
    reader=$pid
    start writer gen_stream --fault stall -o ipc://s
    sleep 0.5
    kill -9 "$pid"
    status_of "$reader"
    [ "$got" -eq 3 ]
    [ "$took" -le 5 ]
    grep "'ipc://s': lost the writer" reader.err
    [ ! -e out.sq ]
}

@test "network: a reader that is killed is an error of the writer, at once" {
    write_to_a_busy_reader
    sleep 0.7
    kill -9 "$reader"
    status_of "$writer"
    [ "$got" -eq 3 ]
    [ "$took" -le 5 ]
    grep "'ipc://s': lost the reader" writer.err
}

@test "network: clocks that jump give nobody up and end no wait early" {
    jump=$(find /usr/lib -name libfaketime.so.1 2>/dev/null | head -n 1)
    [ -n "$jump" ] || skip "skipped: faketime is absent"
    [[ $build != *address* && $build != *thread* ]] || skip "skipped: a sanitizer wants to be loaded first"
    echo +0 >now
    with=(env "LD_PRELOAD=$jump" FAKETIME_TIMESTAMP_FILE="$PWD/now" FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1)
    [ "$(echo +400d >now; "${with[@]}" date +%Y)" -gt "$(date +%Y)" ]
    echo +0 >now
    start reader "${with[@]}" copy_stream -i ipc://s -o out.sq --timeout 2
    reader=$pid
    start nobody "${with[@]}" copy_stream -i ipc://t --wait 4
    nobody=$pid
    start writer "${with[@]}" gen_stream --fault stall -o ipc://s --timeout 2
    from=$SECONDS
    for now in +400d -400d +1d; do
        sleep 1
        echo $now >now
    done
    kill -0 "$reader" "$nobody" "$pid"
    status_of "$nobody"
    [ "$got" -eq 3 ]
    [ $((SECONDS - from)) -ge 4 ]
    [ $((SECONDS - from)) -le 6 ]
    kill -0 "$reader" "$pid"
    [ ! -s reader.err ]
    [ ! -s writer.err ]
}

@test "network: a busy writer is waited for, a frozen one is given up in time" {
    start reader copy_stream -i ipc://s -o out.sq --timeout 2
    reader=$pid
    start writer gen_stream --fault stall -o ipc://s
    sleep 5
    kill -0 "$reader"
    kill -STOP "$pid"
    status_of "$reader"
    [ "$got" -eq 3 ]
    [ "$took" -le 4 ]
    grep "gave no sign of life for 2 s" reader.err
    [ ! -e out.sq ]
}

@test "network: a busy reader is waited for, a frozen one is given up in time" {
    write_to_a_busy_reader --timeout 2
    sleep 5
    kill -0 "$writer"
    kill -STOP "$reader"
    status_of "$writer"
    [ "$got" -eq 3 ]
    [ "$took" -le 4 ]
    grep "gave no sign of life for 2 s" writer.err
    kill -CONT "$reader"
}

@test "network: the end counts only when the reader has confirmed it, byte for byte" {
    p=$(port)
    start writer gen_stream -o "@tcp://127.0.0.1:$p"
    sleep 0.3
    timeout 20 "$root/tests/gen/hostile_client.py" "$p" noack | grep "read [1-9]"
    status_of "$pid"
    [ "$got" -eq 3 ]
    grep "lost the reader" writer.err
    start writer gen_stream -o "@tcp://127.0.0.1:$p"
    sleep 0.3
    timeout 20 "$root/tests/gen/hostile_client.py" "$p" wrongack
    status_of "$pid"
    [ "$got" -eq 1 ]
    grep "does not follow the protocol" writer.err
}

@test "network: a reader that leaves early is an error of the writer" {
    start writer gen_stream --big 500 -o ipc://s
    run -1 copy_stream -i ipc://s -o /dev/full
    status_of "$pid"
    [ "$got" -eq 3 ]
    grep -E "the reader left before the end|lost the reader" writer.err
    start writer gen_stream --layers 8 --fault stall -o ipc://t
    run -0 sq-window --plan -i ipc://t -s W2A16
    kill "$pid" 2>/dev/null || true
}

@test "network: SIGTERM ends a wait, and the other sides hear why" {
    start window sq-window -i ipc://a -s W2A16
    sleep 0.5
    kill -TERM "$pid"
    status_of "$pid"
    [ "$got" -eq 143 ]
    [ "$took" -le 1 ]
    grep "stopped by signal 15" window.err

    start sink copy_stream -i ipc://b -o out.sq
    sink=$pid
    start window sq-window -i ipc://a -o ipc://b -s W2A16 --schedule layer
    window=$pid
    start source gen_stream --fault stall -o ipc://a
    sleep 1
    kill -TERM "$window"
    status_of "$window"
    [ "$got" -eq 143 ]
    [ "$took" -le 2 ]
    status_of "$sink"
    [ "$got" -eq 3 ]
    grep "failed: .*stopped by signal 15" sink.err
    [ ! -e out.sq ]
}

@test "network: a second peer is refused and the first goes on" {
    p=$(port)
    gen_stream --big 60 --no-prov >a.sq
    mkfifo f
    start reader copy_stream --no-prov -i "tcp://127.0.0.1:$p" -o f
    reader=$pid
    (sleep 2; cat) <f >b.sq &
    start writer gen_stream --big 60 --no-prov -o "tcp://127.0.0.1:$p"
    writer=$pid
    sleep 0.5
    run -3 --separate-stderr timeout 20 gen_stream -o "tcp://127.0.0.1:$p"
    [[ $stderr == *"has its writer already and refuses a second one"* ]]
    wait "$writer"
    wait "$reader"
    wait
    cmp a.sq b.sq
}

@test "network: two writers, a wrong name, a file in the way, nobody there: one line each" {
    start writer gen_stream -o "@ipc://s"
    run -1 --separate-stderr gen_stream -o ">ipc://s"
    [[ $stderr == *"both sides are writers"* ]]
    start other copy_stream -i "@ipc://s"
    status_of "$pid"
    [ "$got" -eq 1 ]
    grep "another program listens there" other.err
    echo precious >t
    run -1 --separate-stderr copy_stream -i ipc://t
    [[ $stderr == *"is no socket"* ]]
    [ "$(cat t)" = precious ]
    run -1 --separate-stderr copy_stream -i "tcp://127.0.0.1:99999"
    [[ $stderr == *"is not tcp://HOST:PORT"* ]]
    run -3 --separate-stderr copy_stream -i ipc://u --wait 1
    [[ $stderr == *"no writer came within 1 s (--wait)"* ]]
    run -1 --separate-stderr copy_stream -i "tcp://192.0.2.1:5555"
    [[ $stderr == *"give --key and --allow"* ]]
}

@test "network: a socket that a killed program left behind is taken over; it is its owner's alone" {
    start reader copy_stream -i ipc://s
    sleep 0.5
    [ "$(stat -c %a s)" = 600 ]
    kill -9 "$pid"
    wait "$pid" || true
    [ -S s ]
    start reader copy_stream -i ipc://s -o out.sq
    gen_stream -o ipc://s
    wait "$pid"
    sq-dump --check out.sq
}

# ---- keys ----

make_keys() {
    for k in server client stranger; do
        sq-dump --keygen $k
    done
    p=$(port)
    at=tcp://127.0.0.1:$p
}

@test "keys: sq-dump --keygen makes a secret file and a public one, and overwrites neither" {
    sq-dump --keygen k
    [ "$(stat -c %a k)" = 600 ]
    grep -qE '^sq-secret-key [0-9a-f]{64}$' k
    grep -qE '^sq-public-key [0-9a-f]{64}$' k.pub
    before=$(cat k k.pub)
    run -1 sq-dump --keygen k
    rm k
    run -1 sq-dump --keygen k
    [ ! -e k ]
    [ "$before" != "$(cat k.pub)" ]
}

@test "keys: the right pair is served, a stranger and one without keys are refused before it" {
    make_keys
    gen_stream --no-prov >a.sq
    cat client.pub >allowed
    start reader copy_stream --no-prov -i "$at" -o b.sq --key server --allow allowed
    reader=$pid
    run -3 --separate-stderr timeout 20 gen_stream -o "$at" --key stranger --server server.pub
    [[ $stderr == *"refuses this key"* ]]
    run -3 --separate-stderr timeout 20 gen_stream -o "$at" --key client --server stranger.pub
    [[ $stderr == *"is --server its public key"* ]]
    run -3 --separate-stderr timeout 20 gen_stream -o "$at"
    [[ $stderr == *"does it ask for keys?"* ]]
    gen_stream --no-prov -o "$at" --key client --server server.pub
    wait "$reader"
    cmp a.sq b.sq
    [[ $(cat reader.err) == *"a peer that has a key that is not on the list of --allow was refused"* ]]
}

@test "keys: a client with keys does not talk to a server without" {
    make_keys
    start reader copy_stream -i "$at" -o b.sq
    run -3 --separate-stderr timeout 20 gen_stream -o "$at" --key client --server server.pub
    [[ $stderr == *"broke off the handshake"* ]]
    [ ! -e b.sq ]
}

@test "keys: files that are not what they should be" {
    make_keys
    run -1 --separate-stderr copy_stream -i "$at" --key server
    [[ $stderr == *"--key needs --allow too"* ]]
    run -1 --separate-stderr copy_stream -i "$at" --allow client.pub
    [[ $stderr == *"--allow needs --key too"* ]]
    run -1 --separate-stderr gen_stream -o "$at" --key client
    [[ $stderr == *"--key needs --server too"* ]]
    chmod 644 server
    run -1 --separate-stderr copy_stream -i "$at" --key server --allow client.pub
    [ "$stderr" = "copy_stream: error: others may read the secret key 'server' (mode 0644): chmod 600 'server', or make a new one" ]
    chmod 600 server
    run -1 --separate-stderr copy_stream -i "$at" --key server.pub --allow client.pub
    [[ $stderr == *"others may read"* ]]
    run -1 --separate-stderr copy_stream -i "$at" --key server --allow client
    [[ $stderr == *"'client' holds a secret key where public ones belong"* ]]
    cp server.pub pub && chmod 600 pub
    run -1 --separate-stderr copy_stream -i "$at" --key pub --allow client.pub
    [[ $stderr == *"'pub' holds no secret key"* ]]
    echo "sq-public-key 12" >short
    run -1 --separate-stderr copy_stream -i "$at" --key server --allow short
    [[ $stderr == *"short:1: not a line 'sq-public-key'"* ]]
    run -1 --separate-stderr copy_stream -i "$at" --key server --allow /dev/null
    [[ $stderr == *"is no plain file"* ]]
    cat client.pub stranger.pub >two
    run -1 --separate-stderr gen_stream -o "$at" --key client --server two
    [[ $stderr == *"'two' holds 2 keys"* ]]
}

@test "keys: beyond loopback they are asked for, or --insecure, which warns" {
    p=$(port)
    run -1 --separate-stderr copy_stream -i "tcp://*:$p"
    [[ $stderr == *"'tcp://*:$p' is reached from other machines: give --key and --allow"* ]]
    run -1 --separate-stderr gen_stream -o "tcp://some-host.example:$p"
    [[ $stderr == *"give --key and --server"* ]]
    run -3 --separate-stderr copy_stream -i "tcp://*:$p" --insecure --wait 1
    [[ $stderr == *"warning: 'tcp://*:$p' is neither encrypted nor authenticated (--insecure)"* ]]
    make_keys
    start reader copy_stream -i "tcp://*:$p" -o out.sq --key server --allow client.pub
    gen_stream -o "tcp://127.0.0.1:$p" --key client --server server.pub
    wait "$pid"
    sq-dump --check out.sq
    [ ! -s reader.err ]
}

# ---- hostile ----

@test "hostile: noise, huge headers, messages of strangers: the server lives, its memory is bounded, the stream is whole" {
    p=$(port)
    gen_stream --big 60 --no-prov >a.sq
    mkfifo f
    start reader peak kib copy_stream --no-prov -i "tcp://127.0.0.1:$p" -o f
    reader=$pid
    (sleep 4; cat) <f >b.sq &
    sleep 0.5
    for kind in noise header stranger idle; do
        timeout 20 "$root/tests/gen/hostile_client.py" "$p" $kind
    done
    start writer gen_stream --big 60 --no-prov -o "tcp://127.0.0.1:$p"
    writer=$pid
    sleep 0.5
    for kind in noise header stranger hello idle; do
        timeout 20 "$root/tests/gen/hostile_client.py" "$p" $kind || true
    done
    wait "$writer"
    wait "$reader"
    wait
    cmp a.sq b.sq
    bounded kib
}

@test "hostile: a greeting and then no stream is an error, credits that are ignored fill no memory" {
    p=$(port)
    start reader copy_stream -i "tcp://127.0.0.1:$p"
    reader=$pid
    sleep 0.3
    timeout 20 "$root/tests/gen/hostile_client.py" "$p" hello
    status_of "$reader"
    [ "$got" -eq 1 ]
    [ "$(wc -l <reader.err)" -eq 1 ]

    mkfifo f
    sleep 60 <f &
    pids+=("$!")
    start reader peak kib copy_stream -i "tcp://127.0.0.1:$p" -o f --timeout 2
    reader=$pid
    sleep 0.3
    timeout 20 "$root/tests/gen/hostile_client.py" "$p" flood
    status_of "$reader"
    [ "$got" -ne 0 ]
    bounded kib
}

@test "hostile: with keys nobody gets as far as a message" {
    make_keys
    gen_stream --big 60 --no-prov >a.sq
    start reader peak kib copy_stream --no-prov -i "$at" -o b.sq --key server --allow client.pub
    reader=$pid
    sleep 0.5
    for kind in noise header stranger hello idle; do
        timeout 20 "$root/tests/gen/hostile_client.py" "$p" $kind || true
    done
    gen_stream --big 60 --no-prov -o "$at" --key client --server server.pub
    wait "$reader"
    cmp a.sq b.sq
    bounded kib
}
