bats_require_minimum_version 1.5.0

setup() {
    [ -n "${SQ_BUILD:-}" ] || PATH="$PWD/build/bin:$PWD/build/bin/../gen:$PATH"
    export OMP_WAIT_POLICY=passive # the models are tiny: spinning threads would only disturb other tests
    cd "$BATS_TEST_TMPDIR"
}

status_of() { # status_of PID: of a background job
    status=0
    wait "$1" || status=$?
}

args="-s W2A16 --threads 1 --schedule slider:2,2 --epochs 2 --batch 2 --no-prov"

@test "window: help and version" {
    run -0 sq-window --help
    [[ $output == *"--schedule"* && $output == *"--windows"* && $output == *"--preset"* ]]
    run -0 sq-window --version
}

@test "window: bad options are status 2" {
    run -2 --separate-stderr sq-window </dev/null
    [[ $stderr == *"--scheme is missing"* ]]
    run -2 --separate-stderr sq-window -s W9A16 </dev/null
    run -2 --separate-stderr sq-window -s W2A16 --learn lora,x </dev/null
    [[ $stderr == *"--learn takes none"* ]]
    run -2 --separate-stderr sq-window -s W2A16 --gamma 0.3 </dev/null
    [[ $stderr == *"does not divide 1"* ]]
    run -2 --separate-stderr sq-window -s W2A16 --windows 0-1 </dev/null
    [[ $stderr == *"--windows cuts one stage"* ]]
    run -2 sq-window -s W2A16 --preset none </dev/null
    run -2 sq-window -s W2A16 operand </dev/null
}

@test "window: --plan" {
    run -0 sq-window --plan --layers 5 --schedule slider:2,2
    [ "$output" = $'0-0\n0-1\n1-2\n2-3\n3-4\n4-4' ]
    run -0 sq-window --plan --layers 32
    [ "${#lines[@]}" -eq 33 ]
    run -0 sq-window --plan --layers 5 --schedule layer --windows 1-2,4
    [ "$output" = $'1-1\n2-2\n4-4' ]
    tiny_stream 5 2 4 0 >in.sq
    run -0 sq-window --plan --schedule blocks:2 -i in.sq
    [ "$output" = $'0-1\n2-3\n4-4' ]
}

@test "window: --config reads all of its file, or says why not" {
    plan=(sq-window --plan --layers 1024)
    windows=$(seq -s, 0 1023 | sed 's/[0-9]*/&-&/g')
    printf '# of one line that is long\nschedule=%s\n  windows 3-4  # these\n' "$windows" >c
    [ "$(wc -c <c)" -gt 8000 ]
    run -0 "${plan[@]}" --config c
    [ "$output" = $'3-3\n4-4' ]
    printf 'windows=7' >d
    run -0 "${plan[@]}" --config c --config=d
    [ "$output" = 7-7 ]
    mkdir folder
    run -2 --separate-stderr "${plan[@]}" --config folder
    [ "${stderr_lines[0]}" = "sq-window: error: cannot read 'folder': Is a directory" ]
    run -2 --separate-stderr "${plan[@]}" --config none
    [ "${stderr_lines[0]}" = "sq-window: error: cannot read 'none': No such file or directory" ]
    (echo && head -c 300000 /dev/zero | tr '\0' x) >bad
    run -2 --separate-stderr "${plan[@]}" --config bad
    [ "${stderr_lines[0]}" = "sq-window: error: bad:2: a line of more than 262142 bytes, or with a zero byte" ]
    printf 'seed\0=1\nthreads=1\n' >bad
    run -2 --separate-stderr "${plan[@]}" --config bad
    [[ ${stderr_lines[0]} == "sq-window: error: bad:1: a line of more than "*" or with a zero byte" ]]
    printf 'seed=1\nmetrics=\xff\n' >bad
    run -2 --separate-stderr "${plan[@]}" --config bad
    [ "${stderr_lines[0]}" = "sq-window: error: bad:2: what 'metrics' is set to is not UTF-8" ]
    for fault in open:0 read:0 read:1 alloc:0; do
        SQ_FAULT=$fault run -2 --separate-stderr "${plan[@]}" --config c
        [[ ${stderr_lines[0]} == "sq-window: error: cannot read 'c': "* || $fault == alloc:0 ]]
    done
}

@test "window: a short model is refused with values that fit" {
    run -1 --separate-stderr sq-window --plan --layers 6
    [[ $stderr == *"6 layers are fewer than the 4 shallow and 4 deep"*"slider:2,3,2,1"* ]]
    tiny_stream 5 2 4 0 >in.sq
    run -1 --separate-stderr sq-window -s W2A16 -i in.sq -o out.sq
    [[ $stderr == *"try --schedule"* ]]
    [ ! -e out.sq ]
}

@test "window: learns, reports metrics, one process equals a pipe of two" {
    tiny_stream 5 6 8 2 >in.sq
    sq-window $args --metrics m.json -i in.sq -o one.sq
    sq-window $args --rate 0.5 -i in.sq | sq-window $args --rate 1 >two.sq
    cmp one.sq two.sq
    grep -q '"event":"epoch"' m.json
    [ "$(grep -c '"event":"window"' m.json)" -eq 12 ]
    tail -n 1 m.json | grep -q '"event":"done".*"windows":12.*"cpu_seconds":.*"peak_bytes":.*"work":{.*"products":'
    grep '"event":"window"' m.json | grep '"heldout_exit"' | grep -q '"fallbacks":0'
}

@test "window: cut behind any window, the pieces give the bytes of one process" {
    tiny_stream 5 6 8 2 >in.sq
    while read -r schedule last; do
        one="$args --schedule $schedule --rate 1"
        sq-window $one -i in.sq -o whole.sq
        for ((k = 0; k < last; k++)); do
            sq-window $one --windows 0-$k -i in.sq -o a.sq
            sq-window $one --windows $((k + 1))-$last -i a.sq -o b.sq
            cmp <(sq-dump --digest b.sq) <(sq-dump --digest whole.sq)
        done
    done <<'END'
slider:2,3 5
slider:3,1,2 5
0-1,1-4,2-4,4-4 3
END
}

@test "window: a piece that learns more than the one before gives the same from its cursor and from the tokens" {
    tiny_stream 5 6 8 2 >in.sq
    sq-window $args --rate 1 --learn lwc --windows 0-2 -i in.sq -o a.sq
    sq-window $args --rate 1 --learn lora,lwc --windows 3-5 -i a.sq -o b.sq
    sq-window $args --rate 1 --learn lora,lwc --windows 3-5 --no-cursor -i a.sq -o c.sq
    cmp <(sq-dump --digest b.sq) <(sq-dump --digest c.sq)
}

@test "window: LoRA's rate grows in a short run of the default preset, not in the published one" {
    tiny_stream 5 6 8 2 >in.sq
    digest() { sq-window -s W2A16 --schedule layer --epochs 2 --threads 1 -i in.sq "$@" | sq-dump --digest; }
    [ "$(digest)" = "$(digest --lr-lora 5e-3)" ] # ten times the published rate, the most
    [ "$(digest)" != "$(digest --lr-lora 5e-4)" ]
    [ "$(digest --preset paper)" = "$(digest --preset paper --lr-lora 5e-4)" ]
}

@test "window: fewer samples than a batch are one batch" {
    tiny_stream 4 3 8 1 >in.sq
    sq-window $args --batch 2 -i in.sq -o two.sq
    sq-window $args --batch 64 -i in.sq -o all.sq
    cmp two.sq all.sq
    tiny_stream 4 3 8 1 | sq-window $args --dry-run --batch 64
}

@test "window: threads do not change a byte" {
    tiny_stream 4 6 8 2 >in.sq
    sq-window $args -s W4A4 --threads 1 -i in.sq -o 1.sq
    sq-window $args -s W4A4 --threads 2 -i in.sq -o 2.sq
    sq-window $args -s W4A4 --threads 4 -i in.sq -o 4.sq
    cmp 1.sq 2.sq
    cmp 1.sq 4.sq
}

@test "window: pieces joined by cursors end like one process" {
    tiny_stream 5 6 8 2 >in.sq
    sq-window $args --order window -i in.sq -o one.sq
    sq-window $args --order window --windows 0-2 -i in.sq | sq-window $args --order window --windows 3-5 >two.sq
    # all windows are done, so no cursor is left and the streams are the same
    cmp one.sq two.sq
}

@test "window: --learn none needs no tokens" {
    tiny_stream 5 0 0 0 | sq-window -s W4A16 --learn none --schedule layer >out.sq
    run -1 --separate-stderr bash -o pipefail -c 'tiny_stream 5 0 0 0 | sq-window -s W4A16 --schedule layer >out2.sq'
    [[ $stderr == *"no calibration tokens; put sq-calib before sq-window"* ]]
}

@test "window: --strict fails on a fallback" {
    tiny_stream 3 4 8 0 >in.sq
    run -0 --separate-stderr sq-window $args --schedule layer --learn lora --lr-lora 1000 -i in.sq -o out.sq
    [[ $stderr == *"training failed twice"* ]]
    run -1 --separate-stderr sq-window $args --schedule layer --learn lora --lr-lora 1000 --strict -i in.sq -o strict.sq
    [[ $stderr == *"(--strict)"* ]]
    [ ! -e strict.sq ]
}

@test "window: --dry-run prints memory and time and writes nothing" {
    tiny_stream 5 6 8 2 >in.sq
    run -0 sq-window $args --dry-run -i in.sq -o out.sq
    [[ $output == *"peak memory"* && $output == *"time together"* && $output == *"spool"* ]]
    [ ! -e out.sq ]
    run -1 --separate-stderr sq-window $args --dry-run -i in.sq --memory 1K
    [[ $stderr == *"windows of 2 layers need "*", --memory says 0 MB"* ]]
}

@test "window: truncated input is status 3, no file appears" {
    tiny_stream 5 6 8 2 >in.sq
    for n in 5000 60000 100000; do
        head -c $n in.sq >cut.sq
        run -3 --separate-stderr sq-window $args -i cut.sq -o out.sq
        [ ! -e out.sq ]
    done
    run -3 bash -c 'head -c 60000 in.sq | sq-window '"$args"' | cat >/dev/null; exit ${PIPESTATUS[1]}'
}

@test "window: SIGTERM stops at once, the reader is told, no file appears" {
    tiny_stream 5 6 8 2 >in.sq
    sq-window $args --epochs 100000 -i in.sq -o out.sq 2>err &
    pid=$!
    sleep 1
    kill -TERM $pid
    status_of $pid
    [ "$status" -eq 143 ]
    grep -q "stopped by signal 15" err
    [ ! -e out.sq ]
    [ -z "$(ls out.sq* 2>/dev/null)" ]
    # in a pipe the reader gets an abort record: status 3
    mkfifo pipe
    sq-window $args --epochs 100000 -i in.sq -o pipe 2>err &
    pid=$!
    (sleep 1; kill -TERM $pid) &
    run -3 --separate-stderr sq-window -s W2A16 --learn none --schedule layer -i pipe -o out2.sq
    [[ $stderr == *"stopped by signal 15"* ]]
    [ ! -e out2.sq ]
}

@test "window: SIGTERM while waiting for a slow upstream" {
    mkfifo slow
    sleep 60 >slow &
    holder=$!
    sq-window $args -i slow -o out.sq 2>err &
    pid=$!
    sleep 0.5
    kill -TERM $pid
    status_of $pid
    kill $holder
    [ "$status" -eq 143 ]
}

@test "window: a full disk for the spool is one clear line" {
    tiny_stream 5 6 8 2 >in.sq
    run -1 --separate-stderr sq-window $args --work /nonexistent -i in.sq -o out.sq
    [[ $stderr == "sq-window: error: cannot write in folder '/nonexistent'"* ]]
    run -1 --separate-stderr bash -o pipefail -c 'sq-window '"$args"' -i in.sq >/dev/full'
    [[ $stderr == *"No space left"* ]]
}

@test "window: --memory is kept, by computing again what does not fit, with the same bytes; else refused in one line" {
    sq-load "$BATS_TEST_DIRNAME/../../examples/tiny" |
        sq-calib -t "$BATS_TEST_DIRNAME/../../examples/tiny/calib.txt" -n 3 -l 512 --heldout 0 -o in.sq
    few="-s W2A16 --threads 1 --epochs 1 --rate 0.5 --windows 3-3 --no-prov -i in.sq"
    run -0 sq-window $few --dry-run
    [[ $output =~ "peak memory "[\ ]*([0-9]+)"."[0-9]" MB, "([0-9]+)"."[0-9]" MB at the least" ]]
    all=${BASH_REMATCH[1]} least=${BASH_REMATCH[2]}
    [ "$all" -gt $((least + 10)) ]
    sq-window -q $few -o free.sq
    sq-window -v $few --memory $(((all + least) / 2))M --metrics m.json -o held.sq 2>err
    grep -q "computes forwards again" err
    cmp free.sq held.sq
    peak=$(sed -n 's/.*"event": *"done".*"peak_bytes": *\([0-9]*\).*/\1/p' m.json)
    [ "$peak" -gt 1000000 ]
    [ "$peak" -le $(((all + least) / 2 * 1000000)) ]
    run -1 --separate-stderr sq-window -q $few --memory 60M -o out.sq
    [[ $stderr == "sq-window: error: "*"windows of 4 layers need "*" MB, --memory says 60 MB; "* ]]
    [ ! -e out.sq ]
    run -2 --separate-stderr sq-window $few --memory 4X -o out.sq
    [[ $stderr == *"--memory is '4X', not a size"* ]]
}

@test "window: activations in a file give the same bytes and leave nothing behind; a folder that cannot hold them is one clear line" {
    tiny_stream 5 6 8 2 >in.sq
    sq-window $args --no-prov -i in.sq -o memory.sq
    mkdir spill
    sq-window $args --no-prov --spill spill -i in.sq -o spill.sq
    cmp memory.sq spill.sq
    [ -z "$(ls -A spill)" ]
    run -0 sq-window $args --spill spill --dry-run -i in.sq
    [[ $output == *"disk for the activations"* ]]
    run -1 --separate-stderr sq-window $args --spill /nonexistent -i in.sq -o out.sq
    [[ $stderr == "sq-window: error: "*"cannot write in folder '/nonexistent'"* ]]
    [ ! -e out.sq ]
    run -1 --separate-stderr bash -c 'trap "" XFSZ; ulimit -f 1; exec sq-window '"$args"' --spill spill -i in.sq >out'
    [[ $stderr == "sq-window: error: "*" MB in folder 'spill': "* ]]
}

@test "window: a model with experts, from a searched start to a merged stream" {
    seq 1 600 | awk '{ print ($1 * 7919) % 253 + 3 }' >ids
    sq-load "$BATS_TEST_DIRNAME/../oracle/goldens/models/qwen3-moe" | sq-calib --ids ids -n 8 -l 32 -o calib.sq
    sq-window -i calib.sq -s W2A16 --schedule slider:1,1 --epochs 4 --threads 2 --no-prov -o learned.sq
    run -0 sq-dump --tensor mlp.experts.3.down_proj.u --layer 1 learned.sq
    [[ $output == *"[64,1]"* ]]
    sq-merge -i learned.sq -o merged.sq
    run -0 sq-dump --check merged.sq
}
