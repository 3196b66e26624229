# both passes of a schedule at the same time: the same bytes, and really at the same time
bats_require_minimum_version 1.5.0

setup() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    build=${SQ_BUILD:-$ROOT/build/gcc}
    export PATH="$build/bin:$build/gen:$PATH" OMP_WAIT_POLICY=passive
    cd "$BATS_TEST_TMPDIR" || return 1
}

lines() { # lines PATTERN: numbers of the lines of both passes' metrics that have it
    grep -n "$1" "both passes.json" | cut -d: -f1
}

@test "two-passes.sh: quantize.sh's file; the second pass learns before the first has ended" {
    tiny=$ROOT/examples/tiny
    export SAMPLES=4 LENGTH=32 LC_ALL=C
    "$ROOT/pipelines/quantize.sh" "$tiny" "$tiny/calib.txt" W2A16 one.gguf --epochs 4 --threads 1
    # a word that a shell would take apart has to reach the second pass whole
    "$ROOT/pipelines/two-passes.sh" "$tiny" "$tiny/calib.txt" W2A16 two.gguf --epochs 4 --threads 1 --metrics 'both passes.json'
    cmp one.gguf two.gguf
    first=$(lines '"event":"window".*"rate":1' | head -1)
    last=$(lines '"event":"window".*"rate":0.5' | tail -1)
    echo "the first window of the second pass is line $first, the last one of the first pass line $last"
    [ "$first" -lt "$last" ]
}
