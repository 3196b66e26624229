#!/usr/bin/env bash
# Quantize a model, the samples of every batch spread over workers: workers.sh WORKERS MODEL TEXT SCHEME OUT [sq-window options]
#   WORKERS  how many on this machine, which share its processors; or hosts with commas between them, reached by ssh
#   MODEL, TEXT, SCHEME, OUT and the environment  as for quantize.sh, which this runs; after a stop the same command goes on
# This machine computes a part too: --shards is one more than workers, --batch a multiple of it (3 or more), unless given.
# SSH: how a host is reached; WORKER: options of the workers, which need --backend and --precision where sq-window has them.
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ $# -ge 5 ] || usage
case $1 in
*[!0-9]*) IFS=, read -ra host <<<"$1" && n=${#host[@]} threads=0 ;;
*) host=() n=$1 threads=$(($(nproc) / ($1 + 1))) && threads=$((threads ? threads : 1)) ;;
esac
shift
read -ra options <<<"--threads $threads ${WORKER:-}"
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT

worker() { # worker NUMBER: from standard input to standard output
    if [ ${#host[@]} -eq 0 ]; then
        exec sq-window --worker "${options[@]}"
    fi
    # shellcheck disable=SC2086
    exec ${SSH:-ssh -o BatchMode=yes -o ServerAliveInterval=10} "${host[$1]}" sq-window --worker "${options[@]}"
}

to_all=()
for ((i = 0; i < n; i++)); do
    name=$work/$((i + 1)).${host[$i]:-here} # messages have it
    mkfifo "$name.to" "$name.from"
    worker "$i" <"$name.to" >"$name.from" &
    to_all+=(--workers "$name.to,$name.from")
done
shards=$((n + 1))
model=$1 text=$2 scheme=$3 out=$4
shift 4
"$(dirname "$0")"/quantize.sh "$model" "$text" "$scheme" "$out" --threads "$threads" --shards $shards \
    --batch $(((shards + 2) / shards * shards)) "${to_all[@]}" "$@"
wait
