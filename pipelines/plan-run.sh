#!/usr/bin/env bash
# Run a plan on this machine, what is done already left out: plan-run.sh PLAN [LINES AT A TIME, 1]
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ $# -ge 1 ] || usage
seq "$(wc -l <"$1")" | xargs -P "${2:-1}" -n 1 "$(dirname "$0")/plan-task.sh" "$1"
