# sq-gpucheck: every operation emulated, the faults that it must find, and those that the emulator must
bats_require_minimum_version 1.5.0

setup() {
    cd "$BATS_TEST_TMPDIR" || return 1
    build=${SQ_BUILD:-$BATS_TEST_DIRNAME/../../build/gcc}
    export PATH="$build/bin:$build/gen:$PATH"
    tree=$BATS_TEST_DIRNAME/../..
}

wrong() { # wrong HOW args: sq-gpucheck on a device that is wrong so
    SQ_WRONG=$1 SQ_WRONG_BASE=$build/lib/sq/libsq_emu.so SQ_CUDA_LIB=$build/gen/libsq_wrong.so sq-gpucheck "${@:2}"
}

@test "gpucheck: help, and bad options are 2" {
    run -0 --separate-stderr sq-gpucheck --help
    [[ $output == *"--emulate"* ]] && [ -z "$stderr" ]
    run -2 sq-gpucheck --no-such-thing
    run -1 --separate-stderr sq-gpucheck --device 1
    [ "$stderr" = "sq-gpucheck: error: --device is '1', not cuda:N" ]
}

@test "gpucheck --emulate: all operations agree, with and without a unit for bf16" {
    for device in 0 1; do
        run -0 --separate-stderr sq-gpucheck --emulate --device cuda:$device
        [[ ${lines[-1]} =~ ^([0-9]+)" passed, 0 failed"$ ]]
        [ "${BASH_REMATCH[1]}" -ge 200 ]
    done
    run -1 --separate-stderr sq-gpucheck --emulate --device cuda:2
    [ "$stderr" = "sq-gpucheck: error: there is no device 2, but 2 of them from 0 on" ]
}

@test "gpucheck --json: a line per check, each of them JSON" {
    run -0 --separate-stderr sq-gpucheck --emulate --only rowquant --json
    python3 -c 'import json, sys
rows = [json.loads(x) for x in sys.stdin]
assert rows[0]["backend"] == "emu"
assert len(rows) > 30 and all(r["passed"] and r["op"].startswith("rowquant") for r in rows[1:])' <<<"$output"
}

@test "gpucheck: a large shape is timed, as a share of what the device's memory can" {
    run -0 --separate-stderr wrong rated --only not_finite
    [[ ${lines[0]} == "emulated sm_80 (emu): sm_80, "*", 1 GB/s, 1 TFLOP/s of bf16" ]]
    [[ $output =~ "not_finite       n=1048576 "\ +[0-9.]+" ms "\ *[0-9.]+" GB/s "\ *"0.00 TFLOP/s "\ *[0-9]+" % of memory" ]]
    run -0 --separate-stderr wrong rated --only not_finite --json
    python3 -c 'import json, sys
device, *rows = [json.loads(x) for x in sys.stdin]
timed = [r for r in rows if r["seconds"] > 0]
assert len(timed) == 1 and len(rows) == 7 and device["flops_per_second"] == 1e12, rows
r = timed[0]
assert r["of"] == "memory" and abs(r["share"] - r["bytes"] / 1e9 / r["seconds"]) < 1e-6 * r["share"] and r["bytes"] >= 4 << 20, r' <<<"$output"
}

@test "gpucheck: what is wrong is found, with status 4" {
    while read -r how op text; do
        run -4 --separate-stderr wrong "$how" --only "$op"
        [[ $output == *"FAILED: $text"* ]] || { echo "$how: $output"; return 1; }
        [[ $stderr == *"checks failed" ]]
    done <<'END'
outside add wrote outside of an array
input add changed an input
last add other bits than the reference
differs add other bytes in another run
coarse swiglu further from the reference than its limit
gap rmsnorm wrote where the reference does not
END
    run -4 --separate-stderr sq-gpucheck --emulate --only nothing
    [ "$stderr" = "sq-gpucheck: error: no operation is called so" ]
}

@test "gpucheck: no device, no library, another version: skipped, status 77" {
    run -77 --separate-stderr wrong none
    [ "$stderr" = "sq-gpucheck: skipped: no CUDA device (none today)" ]
    run -77 --separate-stderr wrong version
    [[ $stderr == "sq-gpucheck: skipped: no CUDA device ("*"is of another version"* ]]
    SQ_CUDA_LIB=/no/such.so run -77 --separate-stderr sq-gpucheck
    SQ_CUDA_LIB=libsq_cuda.so run -1 --separate-stderr sq-gpucheck
    [ "$stderr" = "sq-gpucheck: error: SQ_CUDA_LIB is 'libsq_cuda.so', not an absolute path" ]
}

@test "gpucheck: a library in the working directory is not looked at" {
    mkdir -p lib/sq x
    echo "not a library" >libsq_emu.so
    cp libsq_emu.so lib/sq/
    cd x
    run -0 sq-gpucheck --emulate --only add
}

@test "gpucheck: what is installed emulates" {
    [ "$(cd "$build" && pwd -P)" = "$(cd "$tree" && pwd -P)/build/gcc" ] || skip "skipped: what make installs is build/gcc"
    make -s -C "$tree" install DESTDIR="$PWD/root" PREFIX=/usr
    ls root/usr/lib/sq/libsq_emu.so
    run -0 root/usr/bin/sq-gpucheck --emulate --only add
}

@test "gpucheck: on this machine's device" {
    case $build in
    *address* | *thread*) skip "skipped: CUDA and sanitizers want the same addresses" ;;
    esac
    run --separate-stderr sq-gpucheck
    [ "$status" = 77 ] && skip "${stderr#*: }"
    [ "$status" = 0 ]
    [[ $output == *" 0 failed" ]]
}

@test "simt: right kernels are right in every order, with static and dynamic shared memory, and by a warp's product" {
    for seed in 0 1 2 3 7 11; do
        SQ_EMU_SEED=$seed run -0 simt_faults good
        SQ_EMU_SEED=$seed run -0 simt_faults dynamic
        SQ_EMU_SEED=$seed run -0 simt_faults product
        SQ_EMU_SEED=$seed run -0 simt_faults product_bf16
    done
}

@test "simt: planted faults change the numbers or end with a table" {
    for name in no_barrier no_barrier_bf16 loads_another_bf16; do
        run -1 simt_faults $name
    done
    for name in order peeks; do
        run -0 simt_faults $name
        for seed in 1 2 3; do
            SQ_EMU_SEED=$seed run -1 simt_faults $name
        done
    done
    for name in poison leads_wrong not_filled reads_rest; do
        run -1 simt_faults $name
    done
    while read -r name text; do
        [[ $build == *address* && $name == not_shared* ]] && continue # with ASan shared arrays lie anywhere
        run -134 --separate-stderr simt_faults "$name"
        [[ ${stderr_lines[0]} == "simt: $text in block (0, 0, 0)" ]]
        [[ ${stderr_lines[1]} == "simt:   threads "*"simt_faults.cu:"* || ${stderr_lines[2]} == "simt:   threads "*"simt_faults.cu:"* ]]
    done <<'END'
divergent threads wait at different barriers
leaves threads have left before a barrier
not_in_mask a lane is missing from its own mask
names_absent lanes that a mask names never come
two_operations lanes of one mask are in different warp operations
leads_nowhere a matrix of which no warp can load or store the rows
any_address a matrix at an address that is not a multiple of 32 bytes
any_address_bf16 a row of ldmatrix at an address that is not a multiple of 16 bytes
not_shared_bf16 a row of ldmatrix that does not lie in shared memory
loads_another lanes of a warp load or store different matrices
skips_product lanes of one mask are in different warp operations
skips_product_bf16 lanes that a mask names never come
skips_all lanes that a mask names never come
skips_all_bf16 lanes that a mask names never come
not_rounded an operand of mma_sync is not rounded to tf32
END
}

@test "simt: with ASan an access beside an array names its line" {
    case $build in
    *address*) ;;
    *) skip "skipped: not a build with SAN=address" ;;
    esac
    run ! --separate-stderr simt_faults off_by_one
    [[ $stderr == *"heap-buffer-overflow"*"off_by_one"* ]]
}

@test "ptx: what nvcc made of small kernels, interpreted, has the emulator's bits" {
    ptx=$(dirname "$build")/cuda/ptx
    [ -f "$ptx/norm.ptx" ] || skip "skipped: built without nvcc"
    case $build in
    *address* | *thread*) skip "skipped: Python cannot load a library with a sanitizer" ;;
    esac
    command -v python3 || skip "skipped: no python3"
    run -0 python3 "$tree/tests/ptx/check.py" "$ptx" "$build/lib/sq/libsq_emu.so"
    [ "$(grep -c '^ok ' <<<"$output")" -ge 9 ]
    # and it can fail: a sum that is a difference
    mkdir broken && cp "$ptx"/*.ptx broken/
    sed -i 's/add\.rn\.f32/sub.rn.f32/' broken/elem.ptx
    run -1 python3 "$tree/tests/ptx/check.py" broken "$build/lib/sq/libsq_emu.so" add
    [[ $output == *"not ok"*"add_elements: y[0] is"* ]]
}

@test "cuda: registers and spills of every kernel are those of libsq/op/cuda/registers.txt" {
    lib=$(dirname "$build")/cuda/libsq_cuda.so
    nvcc=$(command -v nvcc || command -v /usr/local/cuda/bin/nvcc) || skip "skipped: no nvcc"
    [ -f "$lib" ] || skip "skipped: built without nvcc"
    sh "$tree/mk/registers.sh" "$nvcc" "$(dirname "$lib")"/libsq/op/cuda/*.log >now
    [ "$(head -1 now)" = "$(head -1 "$tree/libsq/op/cuda/registers.txt")" ] || skip "skipped: the table is of another nvcc"
    diff "$tree/libsq/op/cuda/registers.txt" now
}
