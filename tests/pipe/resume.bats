# sq-window --work: stopped in whatever way and started again, the same command ends with the same bytes
bats_require_minimum_version 1.5.0

setup() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    build=${SQ_BUILD:-$ROOT/build/gcc}
    export PATH="$build/bin:$build/gen:$PATH" OMP_WAIT_POLICY=passive
    . "$ROOT/tests/kill.bash"
    cd "$BATS_TEST_TMPDIR" || return 1
}

teardown() {
    ! mountpoint -q "$BATS_TEST_TMPDIR/full" || umount "$BATS_TEST_TMPDIR/full"
}

args="-s W2A16 --threads 1 --schedule slider:2,2 --epochs 2 --batch 2 --no-prov"

restored() { # of the last run in m.json
    tail -n 1 m.json | sed -n 's/.*"event":"done".*"restored":\([0-9]*\).*/\1/p'
}

@test "resume: a work folder changes no byte, and what it holds is not learned again" {
    tiny_stream 5 6 8 2 >in.sq
    for order in pass window; do
        sq-window $args --order $order -i in.sq -o ref.sq
        rm -rf w && mkdir w
        sq-window $args --order $order --work w --metrics m.json -i in.sq -o a.sq
        cmp ref.sq a.sq
        [ "$(restored)" -eq 0 ]
        run -0 --separate-stderr sq-window -v $args --order $order --work w --metrics m.json -i in.sq -o b.sq
        cmp ref.sq b.sq
        [ "$(restored)" -eq 12 ]
        [[ $stderr == *"'w' holds 12 finished windows: they are not learned again"* ]]
        [[ $stderr != *"plain "* ]]
    done
}

@test "resume: from every window on, and over a gap, with the same bytes" {
    tiny_stream 5 6 8 2 >in.sq
    mkdir w
    for order in pass window; do
        sq-window $args --order $order -s W4A4 --work w -i in.sq -o ref.sq
        local all=(w/stage-*)
        [ $order = pass ] || all=($(printf '%s\n' "${all[@]}" | sort -t- -k4))
        for ((n = 11; n >= 0; n--)); do
            rm "${all[@]:n}"
            sq-window $args --order $order -s W4A4 --work w --metrics m.json -i in.sq -o a.sq
            cmp ref.sq a.sq
            [ "$(restored)" -eq $n ]
        done
        rm "${all[3]}" "${all[8]}"
        sq-window $args --order $order -s W4A4 --work w --metrics m.json -i in.sq -o a.sq
        cmp ref.sq a.sq
        [ "$(restored)" -eq 10 ]
        rm w/stage-*
    done
}

@test "resume: other numbers of threads, memory and spilling go on with the same bytes" {
    tiny_stream 5 6 8 2 >in.sq
    sq-window $args -i in.sq -o ref.sq
    mkdir w spill
    sq-window $args --work w -i in.sq -o a.sq
    for how in "--threads 2" "--memory 400M" "--spill spill" "--progress" "--debug -q"; do
        rm w/stage-001-window-0004.sq w/stage-002*
        sq-window -q $args --work w $how -i in.sq -o a.sq
        cmp ref.sq a.sq
    done
}

@test "resume: pieces joined by a cursor, each with its folder" {
    tiny_stream 5 6 8 2 >in.sq
    sq-window $args --order window -i in.sq -o ref.sq
    mkdir w1 w2
    for turn in 1 2; do
        sq-window $args --order window --windows 0-2 --work w1 -i in.sq |
            sq-window $args --order window --windows 3-5 --work w2 --metrics m.json -o a.sq
        cmp ref.sq a.sq
    done
    [ "$(restored)" -eq 6 ]
    # the same windows without the cursor start from other activations
    sq-window $args --order window --windows 0-2 -i in.sq -o piece.sq
    run -1 --separate-stderr sq-window $args --order window --windows 3-5 --work w2 --no-cursor -i piece.sq -o b.sq
    [[ $stderr == *"was made with activations "* ]]
}

@test "resume: the first pass between two processes is replayed without its windows" {
    tiny_stream 5 6 8 2 >in.sq
    sq-window $args -i in.sq -o ref.sq
    mkdir w1 w2
    for turn in 1 2; do
        rm -f w2/stage-001-window-0003.sq
        sq-window $args --rate 0.5 --work w1 -i in.sq | sq-window $args --rate 1 --work w2 --metrics m.json -o a.sq
        cmp ref.sq a.sq
    done
    [ "$(restored)" -eq 5 ]
}

@test "resume: another option is refused by name, and nothing is written" {
    tiny_stream 5 6 8 2 >in.sq
    mkdir w
    sq-window $args --work w -i in.sq -o a.sq
    while read -r name option; do
        # shellcheck disable=SC2086
        run -1 --separate-stderr sq-window $args $option --work w -i in.sq -o b.sq
        [[ $stderr == "sq-window: error: 'w/stage-"*".sq' was made with $name "*", this run has $name "*": repeat the command that began it, or give another --work folder" ]]
        [ ! -e b.sq ]
    done <<'END'
--seed --seed 2
--scheme -s W3A16
--schedule --schedule layer
--order --order window
--epochs --epochs 4
--batch --batch 3
--shards --shards 2
--rank --rank 2
--learn --learn lora
--init --init mse
--loss --loss mse
--preset --preset paper
--gamma --gamma 1
--rate --rate 1
--lr-lora --lr-lora 5e-4
--lr-clip --lr-clip 1e-3
--precision --precision f32
--backend --backend ref
END
    SQ_ISA=base run -1 --separate-stderr sq-window $args --work w -i in.sq -o b.sq
    [[ $stderr == *"was made with --backend cpu ("*"), this run has --backend cpu ("* ]]
    [ "$(ls w/stage-* | wc -l)" -eq 12 ]
    sq-window $args --work w -i in.sq -o b.sq
    cmp a.sq b.sq
}

@test "resume: options that part behind hundreds of characters, or in the eighth digit, are others" {
    tiny_stream 5 6 8 2 >in.sq
    one="$args --rate 1 --epochs 1 --learn lwc -i in.sq"
    first=$(printf '0000000-0000000,%.0s' {1..20})
    mkdir a b c
    sq-window $one --schedule "${first}0-1,2-3,4-4" --work a -o a.sq
    run -1 --separate-stderr sq-window $one --schedule "${first}0-1,2-3,3-4" --work a -o b.sq
    [[ $stderr == *"was made with --schedule ...0"*",0-1,2-3,4-4, this run has --schedule ...0"*",0-1,2-3,3-4: repeat"* ]]
    windows=$(printf '%05d-%05d,' $(seq 0 21 | sed 'p'))
    tiny_stream 24 2 4 0 >deep.sq
    sq-window $one -i deep.sq --schedule layer --windows "${windows}22" --work b -o a.sq
    run -1 --separate-stderr sq-window $one -i deep.sq --schedule layer --windows "${windows%,}" --work b -o b.sq
    [[ $stderr == *"was made with --windows ..."*"-00021,22, this run has --windows ..."*"-00021: repeat"* ]]
    one="$args --epochs 3 --learn lwc -i in.sq"
    sq-window $one --gamma 0.33333333 --work c -o a.sq
    run -1 --separate-stderr sq-window $one --gamma 0.333333334 --work c -o b.sq
    [[ $stderr == *"was made with --rate 0.33333333 0.66666666 1, this run has --rate 0.333333334 "* ]]
    [ ! -e b.sq ]
}

@test "resume: another model, other layers, other samples are refused by name" {
    tiny_stream 5 6 8 2 >in.sq
    mkdir w
    sq-window $args --work w -i in.sq -o a.sq
    "$build/examples/01_write_filter" --factor 1.01 -i in.sq -o other.sq
    run -1 --separate-stderr sq-window $args --work w -i other.sq -o b.sq
    [[ $stderr == *"was made with layer 0 "*", this run has layer 0 "* ]]
    tiny_stream 5 6 8 2 2 >other.sq
    run -1 --separate-stderr sq-window $args --work w -i other.sq -o b.sq
    [[ $stderr == *"was made with samples 6 of 8 tokens, 2 held out, "*", this run has samples 6 of 8 tokens, 2 held out, "* ]]
    tiny_stream 6 6 8 2 >other.sq
    run -1 --separate-stderr sq-window $args --work w -i other.sq -o b.sq
    [[ $stderr == *"was made with model "* ]]
    [ ! -e b.sq ]
}

@test "resume: a damaged file is refused by name at the start; without it the bytes are the same" {
    tiny_stream 5 6 8 2 >in.sq
    mkdir w
    sq-window $args --work w -i in.sq -o ref.sq
    f=w/stage-002-window-0003.sq
    cp $f whole
    size=$(stat -c %s whole)
    for n in 0 1 100 $((size / 2)) $((size - 1)); do
        head -c "$n" whole >$f
        run -1 --separate-stderr sq-window $args --work w -i in.sq -o b.sq
        [[ $stderr == "sq-window: error: '$f' is damaged; remove it and its window is learned again: "* ]]
    done
    for n in 3 150 700 5000 $((size - 30)); do
        cp whole $f
        printf '\x7e' | dd of=$f bs=1 seek="$n" conv=notrunc status=none
        run -1 --separate-stderr sq-window $args --work w -i in.sq -o b.sq
        [[ $stderr == "sq-window: error: '$f' is damaged; remove it and its window is learned again: "* ]]
    done
    [ ! -e b.sq ]
    rm $f
    sq-window $args --work w -i in.sq -o b.sq
    cmp ref.sq b.sq
    cmp whole $f
}

@test "resume: one process at a time works in a folder" {
    tiny_stream 5 6 8 2 >in.sq
    mkdir w
    mkfifo slow
    sq-window $args --work w -i slow -o a.sq &
    pid=$!
    exec 7>slow
    head -c 60000 in.sq >&7
    for _ in $(seq 100); do [ ! -e w/lock ] && sleep 0.05; done
    run -1 --separate-stderr sq-window $args --work w -i in.sq -o b.sq
    [ "$stderr" = "sq-window: error: process $pid works in folder 'w'; wait for its end or give another --work folder" ]
    kill -9 $pid
    exec 7>&-
    wait $pid || true
    sq-window $args --work w -i in.sq -o b.sq # the lock went with its process
}

@test "resume: what a killed writer left is removed, other files stay" {
    tiny_stream 5 6 8 2 >in.sq
    mkdir w
    touch w/stage-001-window-0002.sq.sq-tmp-1 w/notes.txt
    sq-window $args --work w -i in.sq -o a.sq
    [ ! -e w/stage-001-window-0002.sq.sq-tmp-1 ]
    [ -e w/notes.txt ]
}

@test "resume: files are streams: sq-dump lists them, the schema holds" {
    tiny_stream 5 6 8 2 >in.sq
    mkdir w
    sq-window $args --work w -i in.sq -o a.sq
    run -0 sq-dump w/stage-002-window-0003.sq
    [[ $output == *'{"record":"work","window":3,"first":2,"last":3,"rate":1.0,"made":{"sq":'*'"--seed":"0"'* ]]
    [[ $output == *'{"record":"window",'*'"losses":'* ]]
    [[ $output == *"layer    2 learning"*"tensor   self_attn.q_proj.lora_A f32 [4,32]"*"layer    3 learning"* ]]
    run -0 python3 "$ROOT/tests/schema_check.py" w/stage-*.sq
    [[ $output == *" work:1"* ]]
}

@test "resume: --strict fails again at the window that fell back, without it the run goes on" {
    tiny_stream 3 4 8 0 >in.sq
    mkdir w
    wild="$args --schedule layer --learn lora --lr-lora 1000 --work w -i in.sq -o a.sq"
    run -1 --separate-stderr sq-window $wild --strict
    run -1 --separate-stderr sq-window $wild --strict
    [[ $stderr == *"ended worse than its entry loss"*"(--strict)" ]]
    sq-window -q $wild
}

@test "resume: a full disk is one clear line and the folder goes on elsewhere" {
    tiny_stream 5 6 8 2 >in.sq
    mkdir full
    mount -t tmpfs -o size=700k none full 2>/dev/null || skip "skipped: no tmpfs can be mounted here"
    sq-window $args --work full -i in.sq -o ref.sq
    rm full/stage-002*
    head -c 400K /dev/zero >full/ballast
    # not even the spool
    run -1 --separate-stderr sq-window $args --work full -i in.sq -o a.sq
    [ "$stderr" = "sq-window: error: spool file in folder 'full': cannot write the output: No space left on device" ]
    run -1 --separate-stderr sq-window $args --work full --dry-run -i in.sq
    [[ $stderr == "sq-window: error: the run will need "*" MB in folder 'full', which has "*" MB free; name another one" ]]
    # the spool, but not all windows
    for rest in 30 60 90; do
        rm -f full/stage-002*
        head -c $((700 - 164 - 240 - rest))K /dev/zero >full/ballast
        run -1 --separate-stderr sq-window $args --work full -i in.sq -o a.sq
        [[ $stderr == "sq-window: error: cannot write 'full/stage-002-window-000"*": No space left on device" ]]
        [ ! -e a.sq ]
    done
    kept=$(ls full/stage* | wc -l)
    [ "$kept" -gt 6 ]
    [ "$kept" -lt 12 ]
    rm full/ballast
    sq-window $args --work full --metrics m.json -i in.sq -o a.sq
    cmp ref.sq a.sq
    [ "$(restored)" -eq "$kept" ]
}

@test "resume: --dry-run says what the folder takes, and refuses what the run would" {
    tiny_stream 5 6 8 2 >in.sq
    mkdir w
    run -0 sq-window $args --work w --dry-run -i in.sq
    [[ $output == *"disk for the spool file "*" MB; 'w' has "*" MB free"*"disk for finished windows "*" MB; 'w' has "*" MB free"* ]]
    said=$(sed -n 's/^disk for finished windows *\([0-9.]*\) MB.*/\1/p' <<<"$output")
    sq-window $args --work w -i in.sq -o a.sq
    awk -v a="$said" -v b="$(cat w/stage* | wc -c)" 'BEGIN { exit !(a * 1e6 > 0.6 * b && a * 1e6 < 1.3 * b) }'
    run -1 --separate-stderr sq-window $args --seed 2 --work w --dry-run -i in.sq
    [[ $stderr == *"was made with --seed 0, this run has --seed 2"* ]]
    run -1 --separate-stderr sq-window $args --work missing --dry-run -i in.sq
    [[ $stderr == "sq-window: error: cannot write in folder 'missing'"* ]]
}

@test "resume: kill -9, SIGTERM and SIGINT, then the same command" {
    tiny_calibration "$ROOT"
    incomplete=0
    for at in 120 350 600 880; do
        stop_and_go KILL $at
        incomplete=$((incomplete + left))
    done
    [ $incomplete -ge 2 ] # outputs, which the second run removed
    stop_and_go TERM 500
    stop_and_go INT 700
}

@test "progress: a window that is learned again takes its own back: never above 100 %, nor less than nothing left" {
    sq-load -q "$ROOT/examples/tiny" | sq-calib -q -t "$ROOT/examples/tiny/calib.txt" -n 2 -l 48 --heldout 0 -o calib.sq
    run -0 --separate-stderr sq-window -i calib.sq --no-prov -s W2A16 --init minmax --schedule layer --order window \
        --epochs 12 --batch 1 --lr-lora 500 --lr-clip 500 --progress -o /dev/null
    [[ $stderr == *" 16 retried"* ]]
    [ "$(grep -c "100 % window 7-7" <<<"$stderr")" -ge 1 ]
    run -1 grep -E "1(0[1-9]|[1-9][0-9]) % window|-[0-9]+ s left" <<<"$stderr"
}
