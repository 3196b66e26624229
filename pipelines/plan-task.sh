#!/usr/bin/env bash
# Run one line of a plan, in the plan's folder, unless its output is there: plan-task.sh PLAN LINE
#   PLAN  lines of id TAB input TAB command TAB output, as sq-window --jobs writes them; LINE counts from 1
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ $# -eq 2 ] || usage
line=$(sed -n "$2p" "$1")
IFS=$'\t' read -r id input command output <<<"$line" || true
[ -n "${output:-}" ] || { echo "plan-task.sh: '$1' has no line $2" >&2; exit 1; }
cd "$(dirname "$1")"
[ -e "$input" ] || { echo "plan-task.sh: $id: '$input' is missing" >&2; exit 1; }
[ -e "$output" ] || sh -c "$command"
[ -e "$output" ] || { echo "plan-task.sh: $id: no '$output' came of: $command" >&2; exit 1; }
