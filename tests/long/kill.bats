# kill -9 at 200 random moments of a run of examples/tiny, each then gone on with: SQ_KILLS and SQ_SEED override
bats_require_minimum_version 1.5.0

setup() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    build=${SQ_BUILD:-$ROOT/build/gcc}
    export PATH="$build/bin:$build/gen:$PATH" OMP_WAIT_POLICY=passive
    . "$ROOT/tests/kill.bash"
    cd "$BATS_TEST_TMPDIR" || return 1
}

@test "kill -9 at random moments of a run with a work folder: the same bytes, at most one window begun twice" {
    kills=${SQ_KILLS:-200} repeats=0 hits=0 RANDOM=${SQ_SEED:-1}
    tiny_calibration "$ROOT"
    for ((n = 0; n < kills; n++)); do
        stop_and_go KILL $((RANDOM % 1000))
        repeats=$((repeats + repeated))
        [ "$kept" -eq "$windows" ] || hits=$((hits + 1))
    done
    echo "# $kills kills, $hits before the last window, $repeats windows begun twice, every output the same" >&3
}
