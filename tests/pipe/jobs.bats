bats_require_minimum_version 1.5.0

setup() {
    [ -n "${SQ_BUILD:-}" ] || PATH="$PWD/build/bin:$PWD/build/bin/../gen:$PATH"
    export OMP_WAIT_POLICY=passive # the models are tiny: spinning threads would only disturb other tests
    cd "$BATS_TEST_TMPDIR"
}

args="-s W2A16 --epochs 2 --batch 2 --schedule blocks:2"

# the jobs of in.sq in folder j, run in the order of its plan
fan_out() {
    tiny_stream 5 6 8 2 >in.sq
    sq-window $args --jobs j -i in.sq
    while IFS=$'\t' read -r _ _ command _; do (cd j && sh -c "$command"); done <j/plan.tsv
}

@test "jobs: a file for every window, options and a plan beside them" {
    tiny_stream 5 6 8 2 >in.sq
    sq-window $args --jobs j --threads 2 -i in.sq
    [ "$(ls j | tr '\n' ' ')" = "000-001.sq 002-003.sq 004-004.sq arguments plan.tsv " ]
    [ "$(cut -f 1 j/plan.tsv | tr '\n' ' ')" = "000-001 002-003 004-004 " ]
    [ "$(tr '\n' ' ' <j/arguments)" = "scheme=W2A16 epochs=2 batch=2 schedule=blocks:2 " ]
    sq-window $args --windows 1 --jobs one -i in.sq
    [ "$(ls one | tr '\n' ' ')" = "002-003.sq arguments plan.tsv " ]
    cmp <(sq-dump --digest j/002-003.sq) <(sq-dump --digest one/002-003.sq)
}

@test "jobs: job files and results are as schemas/ says" {
    tiny=$BATS_TEST_DIRNAME/../../examples/tiny
    sq-load "$tiny" | sq-calib -t "$tiny/calib.txt" -n 2 -l 16 | sq-window $args --schedule blocks:4 --jobs j
    (cd j && sq-window --config arguments --job 000-003.sq -o 000-003.out)
    run -0 python3 "$BATS_TEST_DIRNAME/../schema_check.py" j/000-003.sq j/000-003.out
    echo "$output"
    [[ ${lines[0]} == *" cursor:2 "*" job:1 layer:8 model:1 "* ]]
    [[ ${lines[1]} == *" job:1 layer:8 model:1 "*" window:2" ]]
}

@test "jobs: the results join in any order, twice-delivered ones too, into the same bytes" {
    fan_out
    sq-merge --no-prov j/000-001.out j/002-003.out j/004-004.out <in.sq >merged.sq
    cp j/002-003.out again
    sq-merge --no-prov again j/004-004.out j/000-001.out j/002-003.out <in.sq >other.sq
    cmp merged.sq other.sq
    # the same jobs on other threads
    (cd j && sq-window --config arguments --job 002-003.sq --threads 2 -o two.out)
    cmp <(sq-dump --digest j/two.out) <(sq-dump --digest j/002-003.out)
}

@test "jobs: a job learns what one process learns from the same inputs" {
    fan_out
    # the first window's inputs are those of a job in any run, Xq being Xf in front of it
    sq-window $args --order window --windows 0 -i in.sq -o whole.sq
    for t in self_attn.q_proj.lora_A self_attn.q_proj.lora_B mlp.down_proj.u; do
        cmp <(sq-dump --tensor $t --layer 1 whole.sq) <(sq-dump --tensor $t --layer 1 j/000-001.out)
    done
    # a later job is the model's middle, from float inputs: another result than from rounded ones
    sq-window $args --order window -i in.sq -o whole.sq
    run ! cmp -s <(sq-dump --tensor mlp.down_proj.u --layer 3 whole.sq) <(sq-dump --tensor mlp.down_proj.u --layer 3 j/002-003.out)
}

@test "jobs: windows that share layers are refused" {
    tiny_stream 5 6 8 2 >in.sq
    run -1 --separate-stderr sq-window -s W2A16 --schedule fixed:2,1 --jobs j -i in.sq
    [[ $stderr == *"window 1-2 shares layers with the one before"*"--schedule blocks:N"* ]]
    run -2 --separate-stderr sq-window $args --jobs j --job k -i in.sq
    [[ $stderr == *"not both at once"* ]]
    run -1 --separate-stderr sq-window $args --learn none --init minmax --jobs j -i in.sq
    [[ $stderr == *"nothing is learned"* ]]
    sq-window $args --jobs j -i in.sq
    run -1 --separate-stderr sq-window $args --jobs j -i in.sq
    [[ $stderr == *"'j' is not empty, it has '"*"': run the jobs in it, or name another folder"* ]]
    run -2 --separate-stderr sq-window $args --dry-run --jobs k -i in.sq
    [[ $stderr == *"leave out --jobs"* ]]
    head -c 20000 in.sq >cut.sq
    run -3 --separate-stderr sq-window $args --jobs k -i cut.sq
    [ ! -e k/plan.tsv ]
}

@test "jobs: killed while they are written, the next run begins anew; what a living one writes is left alone" {
    tiny_stream 5 6 8 2 >in.sq
    sq-window $args --schedule blocks:3 --jobs ref -i in.sq
    mkfifo slow
    (head -c $(($(wc -c <in.sq) * 3 / 4)) in.sq; exec sleep 60) >slow 3>&- &
    feeder=$!
    sq-window $args --jobs j -i slow 3>&- &
    pid=$!
    for ((i = 0; i < 300; i++)); do [ ! -e j/000-001.sq ] || break; sleep 0.1; done
    run -1 --separate-stderr sq-window $args --jobs j -i in.sq
    echo "$stderr"
    [ "$stderr" = "sq-window: error: another program writes jobs into 'j': wait for it, or remove 'plan.tsv.sq-tmp-$pid'" ]
    kill -9 $pid
    kill $feeder
    wait || true
    [ -e j/000-001.sq ] && [ -e j/arguments ] && [ -e j/plan.tsv.sq-tmp-$pid ] && [ ! -e j/plan.tsv ]
    touch j/002-003.sq.sq-tmp-1 j/mine.out
    run -1 --separate-stderr sq-window $args --jobs j -i in.sq
    [[ $stderr == *"'j' is not empty, it has 'mine.out': "* ]]
    [ -e j/000-001.sq ]
    rm j/mine.out
    sq-window $args --schedule blocks:3 --jobs j -i in.sq
    diff <(ls j) <(ls ref)
    cmp j/plan.tsv ref/plan.tsv
    cmp j/arguments ref/arguments
    for f in 000-002 003-004; do cmp <(sq-dump --digest j/$f.sq) <(sq-dump --digest ref/$f.sq); done
}

@test "jobs: a stream with a cursor makes the jobs that it makes without" {
    tiny_stream 5 6 8 2 >in.sq
    sq-window $args --order window --windows 0 -i in.sq -o piece.sq
    sq-window $args --no-cursor --windows 1-2 --jobs a -i in.sq
    sq-window $args --windows 1-2 --jobs b -i piece.sq
    for f in 002-003 004-004; do cmp <(sq-dump --digest a/$f.sq) <(sq-dump --digest b/$f.sq); done
    (cd a && sq-window --config arguments --job 002-003.sq -o 002-003.out)
}

@test "jobs: a job runs with the options it was made with, and as a job only" {
    tiny_stream 5 6 8 2 >in.sq
    sq-window $args --jobs j -i in.sq
    run -1 --separate-stderr sq-window $args --seed 1 --job j/000-001.sq -o x.sq
    [[ $stderr == *"the job was made with --seed 0, this run has --seed 1: --config FOLDER/arguments"* ]]
    run -1 --separate-stderr sq-window --config j/arguments -i j/000-001.sq -o x.sq
    [[ $stderr == *"sq-window --job FILE runs it"* ]]
    run -1 --separate-stderr sq-window $args --job in.sq -o x.sq
    [[ $stderr == *"this is no job file"* ]]
    [ ! -e x.sq ]
}

@test "jobs: results of another model, unlike duplicates, missing and foreign layers are refused" {
    fan_out
    tiny_stream 5 6 8 2 7 >other.sq
    run -1 --separate-stderr bash -c 'sq-merge j/*.out <other.sq >x.sq'
    [[ $stderr == *"'j/000-001.out': layer 0: '"*"' is not that of this model"* ]]
    sq-window $args --epochs 4 --jobs k -i in.sq
    (cd k && sq-window --config arguments --job 002-003.sq -o 002-003.out)
    run -1 --separate-stderr bash -c 'sq-merge j/*.out k/002-003.out <in.sq >x.sq'
    [[ $stderr == *"'k/002-003.out': layer 2: it is not as 'j/002-003.out' has it"* ]]
    run -1 --separate-stderr bash -c 'sq-merge j/000-001.out j/004-004.out <in.sq >x.sq'
    [[ $stderr == *"layer 2 has no scheme"* ]]
    tiny_stream 4 6 8 2 >short.sq
    run -1 --separate-stderr bash -c 'sq-merge -s W2A16 j/004-004.out <short.sq >x.sq'
    [[ $stderr == *"'j/004-004.out': layer 4 has no place in this model"* ]]
    head -c 9000 j/004-004.out >cut.out
    run -3 --separate-stderr bash -c 'sq-merge j/000-001.out j/002-003.out cut.out <in.sq >x.sq'
    [[ $stderr == *"cut.out"* ]]
}
