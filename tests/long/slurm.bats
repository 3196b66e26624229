#!/usr/bin/env bats
# The fan-out recipe as a Slurm array: three nodes on this machine, one of which dies with a job in its hands.
bats_require_minimum_version 1.5.0

setup_file() {
    for program in slurmctld slurmd munged sbatch; do
        command -v "$program" >/dev/null || PATH=$PATH:/usr/sbin command -v "$program" >/dev/null ||
            skip "no $program (packages slurmctld slurmd slurm-client munge)"
    done
    [ "$(id -u)" -eq 0 ] || skip "not root: slurmd starts tasks for others"
    export PATH=$PATH:/usr/sbin at=$BATS_FILE_TMPDIR OMP_WAIT_POLICY=passive
    slurm_up 3 || skip "Slurm does not come up here: $(tail -n 2 "$at/log/slurmctld.log")"
}

teardown_file() {
    for p in "${at:-/nonexistent}"/slurmd-*.pid "${at:-/nonexistent}"/slurmctld.pid "${at:-/nonexistent}"/munge/pid; do
        [ ! -s "$p" ] || kill "$(cat "$p")" 2>/dev/null || true
    done
}

slurm_up() {
    local n host
    host=$(hostname -s)
    mkdir -p "$at"/{state,log,munge}
    # munge wants no folder above its socket that others may write
    chmod 755 "$at" "$(dirname "$at")" "$(dirname "$(dirname "$at")")"
    for n in $(seq "$1"); do mkdir -p "$at/n$n"; done
    head -c 1024 /dev/urandom >"$at/munge/key"
    chown -R munge:munge "$at/munge"
    chmod 400 "$at/munge/key"
    chmod 711 "$at/munge"
    runuser -u munge -- munged --force --key-file="$at/munge/key" --socket="$at/munge/sock" --pid-file="$at/munge/pid" \
        --log-file="$at/munge/log" --seed-file="$at/munge/seed"
    cat >"$at/slurm.conf" <<EOF
ClusterName=sq
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$at/munge/sock
CredType=cred/munge
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$at/state
SlurmdSpoolDir=$at/%n
SlurmctldPidFile=$at/slurmctld.pid
SlurmdPidFile=$at/slurmd-%n.pid
SlurmctldLogFile=$at/log/slurmctld.log
SlurmdLogFile=$at/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdTimeout=10
NodeName=n[1-$1] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-$((17000 + $1))] CPUs=1 RealMemory=500 State=UNKNOWN
PartitionName=all Nodes=n[1-$1] Default=YES MaxTime=INFINITE State=UP
EOF
    export SLURM_CONF=$at/slurm.conf
    slurmctld -f "$at/slurm.conf" -c
    for n in $(seq "$1"); do slurmd -f "$at/slurm.conf" -N "n$n"; done
    for _ in $(seq 100); do
        [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l)" -ne "$1" ] || return 0
        sleep 0.2
    done
    return 1
}

kill_tree() { # kill_tree PID: it and what it started, at once
    local child
    for child in $(pgrep -P "$1"); do kill_tree "$child"; done
    kill -KILL "$1" 2>/dev/null || true
}

@test "slurm: a node dies, its task is queued again, the result is the same" {
    export SAMPLES=8 LENGTH=128
    args=(examples/tiny examples/tiny/calib.txt W2A16 2)
    pipelines/fan-out.sh "${args[@]}" "$at/local.gguf" "$at/local" --epochs 40
    RUN=slurm/plan-run.sh pipelines/fan-out.sh "${args[@]}" "$at/cluster.gguf" "$at/cluster" --epochs 40 >"$at/out" 2>&1 &
    recipe=$!
    for _ in $(seq 300); do
        read -r job node < <(squeue -h -t R -o '%A %N' | head -n 1) && [ -n "${job:-}" ] && break
        sleep 0.1
    done
    [ -n "$job" ]
    echo "task $job dies with node $node"
    kill_tree "$(cat "$at/slurmd-$node.pid")"
    for step in $(pgrep -f "slurmstepd: \[$job"); do kill_tree "$step"; done
    wait "$recipe" || { cat "$at/out"; tail -n 5 "$at"/cluster/jobs/*.log; false; }
    grep -q "requeue" "$at/log/slurmctld.log"
    cmp "$at/local.gguf" "$at/cluster.gguf"
}
