#!/bin/sh
# What ptxas says of every kernel and architecture: registers.sh NVCC LOG... -> "kernel sm registers spilled-bytes shared-bytes"
set -eu
nvcc=$1
shift
"$nvcc" --version | sed -n 's/.*\(release [0-9.]*\), \(V[0-9.]*\).*/# nvcc \1 \2/p'
echo "# kernel sm registers spill-stores spill-loads shared (but what a launch asks for)"
cat "$@" | awk '
    /Compiling entry function/ { split($0, q, "\047"); name = q[2]; sm = q[4] }
    /bytes spill stores/ { stores = $5; loads = $9 }
    /Used [0-9]+ registers/ {
        shared = 0
        for (i = 2; i <= NF; i++) if ($i ~ /^smem/) shared = $(i - 2)
        print name, sm, $5, stores, loads, shared
    }' | sed 's/^\(void \)\?//' | sort
