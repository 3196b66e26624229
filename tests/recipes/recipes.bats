#!/usr/bin/env bats
# The recipes of pipelines/ on the small model of this repository, with budgets that take seconds.
bats_require_minimum_version 1.5.0

setup() {
    work=$(mktemp -d)
    export SAMPLES=4 LENGTH=128
}

teardown() {
    rm -rf "$work"
}

@test "quantize.sh writes a GGUF file that sq-eval reads" {
    SAMPLES=8 run -0 pipelines/quantize.sh examples/tiny examples/tiny/calib.txt W4A16 "$work/m.gguf" --epochs 2
    run -0 --separate-stderr sq-eval --text examples/tiny/test.txt --length 128 --windows 20 --json "$work/m.gguf"
    value=$(sed -n 's/.*"metric": *"perplexity", *"value": *\([0-9.]*\).*/\1/p' <<<"$output")
    float=$(sq-eval --text examples/tiny/test.txt --length 128 --windows 20 --json examples/tiny 2>/dev/null |
        sed -n 's/.*"metric": *"perplexity", *"value": *\([0-9.]*\).*/\1/p')
    echo "float $float, W4A16 $value"
    awk -v a="$value" -v b="$float" 'BEGIN { exit !(a > b * 0.98 && a < b * 1.08) }'
}

@test "quantize.sh writes a Hugging Face directory, with extra options for sq-window" {
    run -0 pipelines/quantize.sh examples/tiny examples/tiny/calib.txt W3A16g64 "$work/hf" --epochs 2 --schedule layer
    [ -f "$work/hf/config.json" ]
    [ -f "$work/hf/model.safetensors" ]
    [ -f "$work/hf/tokenizer.json" ]
    run -0 sq-eval --text examples/tiny/test.txt --length 128 --windows 2 "$work/hf"
}

@test "quantize.sh looks first: what could not be written is refused before anything is learned" {
    run ! pipelines/quantize.sh examples/tiny examples/tiny/calib.txt W8A16 "$work/m.gguf" --epochs 1
    [[ $output == *"codes minus zero points reach"* ]]
    run ! pipelines/quantize.sh examples/tiny examples/tiny/calib.txt W4A16g48 "$work/m.gguf" --epochs 1
    run ! pipelines/quantize.sh examples/tiny examples/tiny/calib.txt W4A16 "$work/missing/m.gguf" --epochs 1
    [[ $output == *"cannot write in folder '$work/missing'"* ]]
    run ! pipelines/quantize.sh examples/tiny examples/tiny/calib.txt W4A16 "$work/m.gguf" --epochs 1 --memory 1M
    [ -z "$(ls -A "$work")" ]
}

@test "quantize.sh, killed, goes on and writes the same file" {
    make="pipelines/quantize.sh examples/tiny examples/tiny/calib.txt W2A16 $work"
    run -0 $make/ref.gguf --epochs 2
    [[ $output == *"time together"*"disk for finished windows"* ]]
    [ "$(ls "$work")" = ref.gguf ]
    setsid $make/m.gguf --epochs 2 >/dev/null 2>&1 &
    pid=$!
    for _ in $(seq 600); do
        [ "$(ls "$work"/m.gguf.work/stage-*.sq 2>/dev/null | wc -l)" -lt 4 ] || break
        sleep 0.05
    done
    kill -9 -- -$pid
    wait $pid || true
    kept=$(ls "$work"/m.gguf.work/stage-*.sq | wc -l)
    [ "$kept" -ge 4 ]
    [ "$kept" -lt 18 ]
    [ ! -e "$work/m.gguf" ]
    run ! $make/m.gguf --epochs 4
    [[ $output == *"was made with --epochs 2, this run has --epochs 4"* ]]
    run -0 $make/m.gguf --epochs 2 --verbose
    [[ $output == *"holds $kept finished windows"* && $output != *"time together"* ]]
    cmp "$work/ref.gguf" "$work/m.gguf"
    [ ! -e "$work/m.gguf.work" ]
}

@test "a recipe whose first stage fails fails and leaves no file" {
    run ! pipelines/quantize.sh /nonexistent examples/tiny/calib.txt W4A16 "$work/m.gguf"
    [ -z "$(ls -A "$work")" ]
}

@test "compare-schedules.sh prints a table of seven rows with perplexities" {
    WINDOWS=2 run -0 --separate-stderr pipelines/compare-schedules.sh examples/tiny examples/tiny/calib.txt \
        examples/tiny/test.txt W2A16 --epochs 2
    echo "$output"
    [ "$(grep -cE '^\| [a-z -]+ \| [a-z0-9:,-]+ \| [0-9]+\.[0-9]+ ± [0-9.]+ \|' <<<"$output")" -eq 7 ]
}

@test "compare-methods.sh prints a table: float, then four rows a scheme, with costs" {
    WINDOWS=2 run -0 --separate-stderr pipelines/compare-methods.sh examples/tiny examples/tiny/calib.txt \
        examples/tiny/test.txt "W4A16 W2A16" --epochs 2
    echo "$output"
    [ "$(grep -cE '^\| (-|W[24]A16) \| [a-z -]+ \| [0-9.]+ ± [0-9.]+ \|' <<<"$output")" -eq 9 ]
    [ "$(grep -cE '\| [0-9]+ s \| [1-9][0-9]* MB \|$' <<<"$output")" -eq 8 ]
    [ "$(printf '%s\n' "${lines[@]}" | grep 'W2A16' | cut -d'|' -f4 | sort -u | wc -l)" -eq 4 ]
}

@test "workers.sh: local workers and those of hosts make the file of one process; one that fails is named" {
    pipelines/quantize.sh examples/tiny examples/tiny/calib.txt W4A16 "$work/one.gguf" --epochs 2 --batch 3 --shards 3
    run -0 pipelines/workers.sh 2 examples/tiny examples/tiny/calib.txt W4A16 "$work/two.gguf" --epochs 2
    [[ $output == *"workers "*"2, not counted"* ]]
    cmp "$work/one.gguf" "$work/two.gguf"
    printf '#!/bin/sh\necho "$1" >>%s/hosts\nshift\nexec "$@"\n' "$work" >"$work/ssh"
    printf '#!/bin/sh\nexit 255\n' >"$work/no-ssh"
    chmod +x "$work/ssh" "$work/no-ssh"
    SSH="$work/no-ssh" run ! timeout 60 pipelines/workers.sh b,c examples/tiny examples/tiny/calib.txt W4A16 "$work/hosts.gguf" --epochs 2
    [[ $output == *"sq-window: error: worker 1 of 2: "* ]]
    [ ! -e "$work/hosts.gguf" ]
    WORKER="--precision f32" SSH="$work/ssh" run ! pipelines/workers.sh b,c examples/tiny examples/tiny/calib.txt W4A16 "$work/hosts.gguf" --epochs 2
    [[ $output == *"worker 1 of 2: "*" computes with "* ]]
    SSH="$work/ssh" run -0 pipelines/workers.sh b,c examples/tiny examples/tiny/calib.txt W4A16 "$work/hosts.gguf" --epochs 2
    cmp "$work/one.gguf" "$work/hosts.gguf"
    [ "$(sort -u "$work/hosts" | tr '\n' ' ')" = "b c " ]
}

@test "fan-out.sh: blocks of layers learned apart make the same file, at once or one by one, and again after a loss" {
    export SAMPLES=4 LENGTH=64
    pipelines/fan-out.sh examples/tiny examples/tiny/calib.txt W4A16 2 "$work/a.gguf" "$work/a" --epochs 2
    # as a kill leaves it while jobs are written
    mkdir -p "$work/b/jobs"
    touch "$work/b/jobs/"{arguments,000-001.sq,002-003.sq.sq-tmp-1,plan.tsv.sq-tmp-1}
    RUN="plan-run.sh" run -0 pipelines/fan-out.sh examples/tiny examples/tiny/calib.txt W4A16 2 "$work/b.gguf" "$work/b" --epochs 2
    cmp "$work/a.gguf" "$work/b.gguf"
    pipelines/plan-run.sh "$work/b/jobs/plan.tsv" 2 # nothing is left to do
    rm "$work/b/jobs/002-003.out" "$work/b.gguf"
    pipelines/fan-out.sh examples/tiny examples/tiny/calib.txt W4A16 2 "$work/b.gguf" "$work/b" --epochs 2
    cmp "$work/a.gguf" "$work/b.gguf"
    rm "$work/b/jobs/002-003.out" "$work/b/jobs/002-003.sq"
    run ! pipelines/plan-run.sh "$work/b/jobs/plan.tsv"
    [[ $output == *"002-003: '002-003.sq' is missing"* ]]
}

@test "sweep.sh prints a row for every variant, and goes on with what is there" {
    export SAMPLES=4 LENGTH=64 WINDOWS=2
    printf '%s\n%s' "-s W4A16 --learn none" "-s W2A16 --epochs 2 --seed 1" >"$work/variants"
    run -0 --separate-stderr pipelines/sweep.sh examples/tiny examples/tiny/calib.txt examples/tiny/test.txt "$work/variants" "$work/w"
    [ "$(grep -cE '^\| -s W[24]A16 .* \| [0-9.]+ ± [0-9.]+ \|$' <<<"$output")" -eq 2 ]
    first=$(ls -l --time-style=full-iso "$work"/w/*.json)
    printf '\n%s\n' "-s W4A16 --learn none --init mse" >>"$work/variants"
    run -0 --separate-stderr pipelines/sweep.sh examples/tiny examples/tiny/calib.txt examples/tiny/test.txt "$work/variants" "$work/w"
    [ "${#lines[@]}" -eq 5 ]
    [ "$(ls -l --time-style=full-iso "$work"/w/*.json | grep -cFxf <(echo "$first"))" -eq 2 ]
}

@test "recipes say how they are called" {
    for recipe in quantize two-passes workers sweep fan-out compare-schedules compare-methods; do
        run -2 "pipelines/$recipe.sh" examples/tiny
        [[ $output == *"$recipe.sh "*"MODEL TEXT"* ]]
    done
}

@test "demo.sh ends with a table and a file" {
    SAMPLES=4 EPOCHS=2 OUT="$work/demo.gguf" run -0 pipelines/demo.sh
    echo "$output"
    [ -s "$work/demo.gguf" ]
    [ "$(grep -cE '^(float|W2A16).* [0-9]+\.[0-9]+' <<<"$output")" -eq 3 ]
}
