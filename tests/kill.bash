# Stopping sq-window and starting it again; read by tests, not run.

# a run of seconds on examples/tiny, made by tiny_calibration
few=(sq-window -s W2A16 --threads 1 --epochs 4 --batch 2 --no-prov -i tiny.sq)

tiny_calibration() { # tiny.sq, and in $whole the seconds that a run takes, in $windows its windows
    local root=$1 start=${EPOCHREALTIME/./}
    sq-load "$root/examples/tiny" | sq-calib -t "$root/examples/tiny/calib.txt" -n 4 -l 32 --heldout 1 -o tiny.sq
    start=${EPOCHREALTIME/./}
    "${few[@]}" --metrics ref.json -o ref.sq
    whole=$((${EPOCHREALTIME/./} - start)) # microseconds
    windows=$(grep -c '"event":"window"' ref.json)
}

begun() { # begun METRICS: windows and stages whose learning began (its first epoch was reported), one a line
    sed -n 's/.*"event":"epoch".*\("window":[0-9]*\).*\("rate":[0-9.]*\),"epoch":0,.*/\1 \2/p' "$1" | sort
}

# stop_and_go SIGNAL PERMILLE: a run with a work folder gets the signal after that part of $whole, the same command then goes
# on. Same bytes; what was finished is not learned again; nothing else lies in the folder, nor beside the output. Sets $kept (windows
# found by the second run), $repeated (begun by both) and $left (incomplete outputs before it).
stop_and_go() {
    local pid status=0 finished again
    rm -rf folder && mkdir folder && rm -f a.json b.json out.sq*
    "${few[@]}" --work folder --metrics a.json -o out.sq 2>first.err &
    pid=$!
    sleep "$(printf '%d.%06d' $((whole * $2 / 1000 / 1000000)) $((whole * $2 / 1000 % 1000000)))"
    kill "-$1" $pid 2>/dev/null || true # it may have ended
    wait $pid || status=$?
    touch a.json
    left=$(compgen -G 'out.sq.sq-tmp-*' | wc -l)
    "${few[@]}" --work folder --metrics b.json -o out.sq || return 1
    cmp ref.sq out.sq || return 1
    [ -z "$(compgen -G 'out.sq.*')" ] || return 1
    finished=$(grep -c '"event":"window"' a.json || true)
    again=$(grep -c '"event":"window"' b.json || true)
    kept=$(sed -n 's/.*"event":"done".*"restored":\([0-9]*\).*/\1/p' b.json)
    repeated=$(comm -12 <(begun a.json) <(begun b.json) | wc -l)
    echo "signal $1 after $2 per mille: status $status, $finished windows finished, $kept kept, $again learned after it, $repeated begun twice"
    [ $((kept + again)) -eq "$windows" ] && [ "$kept" -ge "$finished" ] && [ "$repeated" -le 1 ] || return 1
    [ "$(ls folder | wc -l)" -eq $((windows + 1)) ] || return 1
}
