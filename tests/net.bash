# Processes that speak over endpoints, and hosts for them; read by tests, not run.

pids=() spaces=()

end_all() { # for teardown
    local p s
    for p in "${pids[@]}"; do
        kill -CONT "$p" 2>/dev/null && kill -KILL "$p" 2>/dev/null
    done
    for s in "${spaces[@]}"; do
        for p in $(ip netns pids "$s" 2>/dev/null); do kill -KILL "$p" 2>/dev/null; done # behind a cut cable nobody hears of the end
    done
    wait
    for s in "${spaces[@]}"; do ip netns del "$s" 2>/dev/null; done
    true
}

port() { # a port of loopback that nobody uses
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start() { # start NAME COMMAND...: in the background; its number in $pid, its stderr in NAME.err
    "${@:2}" 2>"$1.err" &
    pid=$!
    pids+=("$pid")
}

status_of() { # status_of PID: wait for it, its exit status into $got, the seconds waited into $took
    local from=$SECONDS
    got=0
    wait "$1" || got=$?
    took=$((SECONDS - from))
}

# bounded FILE...: peaks of memory, in KiB as gen/peak writes them; a stream's is that of its messages under way, not of the stream
bounded() {
    local f
    case $build in
    *address* | *thread*) echo "# skipped: the bound of memory in '$BATS_TEST_DESCRIPTION': a sanitizer keeps freed memory" >&3 && return ;;
    esac
    for f in "$@"; do
        echo "$f: $(cat "$f") KiB"
        [ "$(cat "$f")" -lt 60000 ] || return 1
    done
}

# hosts N: hosts 1 to N as network namespaces, a cable from the first, 10.99.K.1 there, to every other, 10.99.K.K.
# `$on-K COMMAND` runs on host K.
hosts() {
    local k
    command -v ip >/dev/null || skip "skipped: ip(8) is absent"
    on="ip netns exec sq$$"
    for ((k = 1; k <= $1; k++)); do
        ip netns add "sq$$-$k" 2>/dev/null || skip "skipped: no permission for network namespaces"
        spaces+=("sq$$-$k")
        ip -n "sq$$-$k" link set lo up
        [ "$k" -gt 1 ] || continue
        ip link add "to$k" netns "sq$$-1" type veth peer name to1 netns "sq$$-$k" 2>/dev/null || skip "skipped: no veth devices"
        ip -n "sq$$-1" addr add "10.99.$k.1/24" dev "to$k"
        ip -n "sq$$-$k" addr add "10.99.$k.$k/24" dev to1
        ip -n "sq$$-1" link set "to$k" up
        ip -n "sq$$-$k" link set to1 up
        sq-dump --keygen "key$k"
    done
    sq-dump --keygen key1
}

# ssh_to K...: hosts K let host 1 in, with this build on their PATH; $ssh is how
ssh_to() {
    local k sshd
    sshd=$(PATH=$PATH:/usr/sbin command -v sshd) || skip "skipped: sshd is absent (package openssh-server)"
    ssh-keygen -q -t ed25519 -N '' -f user && ssh-keygen -q -t ed25519 -N '' -f host
    ssh="ssh -F none -i $PWD/user -o IdentitiesOnly=yes -o UserKnownHostsFile=$PWD/known -o BatchMode=yes -o ConnectTimeout=5"
    for k in "$@"; do
        printf '%s\n' "ListenAddress 10.99.$k.$k" "HostKey $PWD/host" "AuthorizedKeysFile $PWD/user.pub" "StrictModes no" "UsePAM no" \
            "PidFile none" "PermitRootLogin prohibit-password" "SetEnv PATH=$build/bin:/usr/bin:/bin" >"sshd$k.conf"
        echo "10.99.$k.$k $(cut -d ' ' -f 1,2 host.pub)" >>known
        # shellcheck disable=SC2016
        start "sshd$k" $on-$k sh -c 'mount -t tmpfs none /run && mkdir /run/sshd && exec "$0" -D -e -f "$1"' "$sshd" "$PWD/sshd$k.conf"
        for _ in $(seq 100); do
            ! grep -q listening "sshd$k.err" || break
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.05
        done
        $on-1 $ssh "10.99.$k.$k" true || skip "skipped: sshd lets nobody in here: $(tail -n 1 "sshd$k.err")"
    done
}

cable() { # cable K up|down: at host K's end
    ip -n "sq$$-$1" link set to1 "$2"
}
