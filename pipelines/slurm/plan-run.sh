#!/usr/bin/env bash
# Run a plan as a Slurm array and wait for it, what is done already left out: slurm/plan-run.sh PLAN [sbatch options]
# The plan's folder is on a disk that all nodes share. A task whose node dies is queued again and starts its line anew.
set -euo pipefail
. "$(dirname "$0")/../common.sh"
[ $# -ge 1 ] || usage
plan=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
task=$(cd "$(dirname "$0")/.." && pwd)/plan-task.sh
shift
sbatch --wait --requeue --parsable --job-name sq --array="1-$(wc -l <"$plan")" --output="$plan.%a.log" "$@" \
    --wrap "$(printf '%q %q "$SLURM_ARRAY_TASK_ID"' "$task" "$plan")"
