# What the recipes share; read by them, not run.

# the programs of a pipeline share the processors: a thread that waits must not spin
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

# the programs of this checkout where they are built, else those installed
programs=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/bin
[ -x "$programs/sq-load" ] && PATH="$programs:$PATH"

usage() { # the comment lines at the top of the recipe, behind #!
    sed -n '2,/^[^#]/s/^# *//p' "$0" >&2
    exit 2
}

field() { # field NAME <JSON: its number in the first line that has it
    sed -n 's/.*"'"$1"'": *\([0-9.eE+-]*\).*/\1/p;T;q'
}

# perplexity TEXT LENGTH MODEL-or-stream [sq-eval options]: the figure, +-, its standard error
perplexity() {
    local text=$1 length=$2 model=$3 out
    shift 3
    out=$(sq-eval --quiet --text "$text" --length "$length" --json "$@" "$model" | grep '"metric": *"perplexity"')
    printf '%.2f ± %.2f\n' "$(field value <<<"$out")" "$(field stderr <<<"$out")"
}

# compare_on MODEL TEXT TEST: begins a comparison; $work/calib.sq is the model with its samples, figure() measures on TEST
compare_on() {
    local length=${LENGTH:-2048}
    test=$3 test_length=${TEST_LENGTH:-$length} seed=${SEED:-0} work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    sq-load "$1" | sq-calib --text "$2" --samples "${SAMPLES:-32}" --length "$length" --seed "$seed" --out "$work/calib.sq"
}

figure() { # figure MODEL-or-stream
    perplexity "$test" "$test_length" "$1" ${WINDOWS:+--windows "$WINDOWS"}
}
