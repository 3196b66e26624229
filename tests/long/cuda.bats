# The whole pipeline of examples/tiny with --backend cuda, emulated (10 minutes): as good as the processor's, within what seeds do
bats_require_minimum_version 1.5.0

setup() {
    cd "$BATS_TEST_TMPDIR" || return 1
    build=${SQ_BUILD:-$BATS_TEST_DIRNAME/../../build/gcc}
    export PATH="$build/bin:$build/gen:$PATH" SQ_CUDA_LIB="$build/lib/sq/libsq_emu.so"
    tiny=$BATS_TEST_DIRNAME/../../examples/tiny
}

perplexity() { # perplexity SCHEME SEED BACKEND: of a short run, the parts of both on that backend
    sq-load -q "$tiny" | sq-calib -q -t "$tiny/calib.txt" -n 6 -l 64 --heldout 0 --seed "$2" |
        sq-window -q -s "$1" --schedule slider:2,2,2,1 --epochs 4 --seed "$2" --backend "$3" | sq-merge -q -o model.sq
    sq-eval -q --json --backend cpu -t "$tiny/test.txt" --length 256 --windows 40 model.sq |
        python3 -c 'import json, sys; print(json.loads(sys.stdin.readline())["value"])'
}

@test "cuda: perplexity of a whole run is the processor's within the spread of its seeds" {
    for scheme in W2A16 W4A4; do
        seeds=$(for s in 0 1 2 3 4; do perplexity $scheme $s cpu; done | tr '\n' ' ')
        device=$(perplexity $scheme 0 cuda)
        echo "# $scheme: processor, five seeds: $seeds; device, seed 0: $device" >&3
        python3 - "$device" $seeds <<'END'
import sys
device, *seeds = map(float, sys.argv[1:])
spread = max(seeds) - min(seeds)
assert abs(device - seeds[0]) <= spread, (device, seeds)
END
    done
}
