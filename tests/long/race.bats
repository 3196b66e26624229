# Every kernel under TSan, a fiber per CUDA thread: what two threads touch without a barrier between them is reported with both lines
bats_require_minimum_version 1.5.0

setup_file() {
    cd "$BATS_TEST_DIRNAME/../.." || return 1
    command -v setarch || skip "skipped: no setarch"
    make SAN=thread HAVE_NVCC=0 build/gcc-thread/{bin/sq-gpucheck,lib/sq/libsq_emu.so,gen/simt_faults} >/dev/null
}

setup() {
    cd "$BATS_TEST_DIRNAME/../../build/gcc-thread" || return 1
}

@test "race: missing barriers are found, also where the order of threads hides them" {
    for name in no_barrier no_barrier_bf16 order; do
        SQ_EMU_SEED=0 run setarch -R gen/simt_faults $name
        [[ $output == *"ThreadSanitizer: data race"*"simt_faults.cu"* ]]
    done
    run -0 setarch -R gen/simt_faults good
    run -0 setarch -R gen/simt_faults dynamic
    run -0 setarch -R gen/simt_faults product
    run -0 setarch -R gen/simt_faults product_bf16
}

@test "race: no kernel has one" {
    run -0 setarch -R bin/sq-gpucheck --emulate --threads 1 # libgomp is not built with TSan
    [[ $output != *"data race"* && $output == *" passed, 0 failed"* ]]
}
