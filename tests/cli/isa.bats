bats_require_minimum_version 1.5.0

setup() {
    build=${SQ_BUILD:-$BATS_TEST_DIRNAME/../../build/gcc}
    PATH="$build/bin:$build/gen:$PATH"
    export OMP_WAIT_POLICY=passive
    cd "$BATS_TEST_TMPDIR"
    case " $(grep -m1 ^flags /proc/cpuinfo) " in
    *" avx512dq "*) here=avx512 ;;
    *" avx2 "*) here=avx2 ;;
    *) here=$(uname -m | tr _ -) ;;
    esac
}

window="sq-window -s W2A16 --epochs 1 --schedule slider:2,2 --seed 1"

@test "isa: an unknown one is refused, by programs that compute nothing too" {
    tiny_stream 5 3 8 2 >in.sq
    SQ_ISA=sse9 run -1 --separate-stderr $window -i in.sq -o out.sq
    [ "$stderr" = "sq-window: error: SQ_ISA is 'sse9', not base, vector, avx2 or avx512" ]
    SQ_ISA=sse9 run -1 --separate-stderr sq-merge -i in.sq -o out.sq
    [ "$stderr" = "sq-merge: error: SQ_ISA is 'sse9', not base, vector, avx2 or avx512" ]
    [ ! -e out.sq ]
}

@test "isa: one that the processor lacks is refused in one line" {
    tiny_stream 5 3 8 2 >in.sq
    [ "$here" != avx512 ] || skip "skipped: this processor has all of them"
    SQ_ISA=avx512 run -1 --separate-stderr $window -i in.sq -o out.sq
    [ "$stderr" = "sq-window: error: SQ_ISA is 'avx512', which this processor does not have: it has $here" ]
    [ ! -e out.sq ]
}

@test "isa: provenance names what was in force" {
    tiny_stream 5 3 8 2 >in.sq
    noted() { # noted SQ_ISA: of the window's entry
        SQ_ISA=$1 $window -i in.sq -o out.sq
        sq-dump --prov out.sq | tail -1 | sed 's/.*, //'
    }
    [ "$(noted base)" = "$(uname -m | tr _ -)" ]
    [ "$(noted vector)" = "$here" ]
    [ "$(noted "")" = "$here" ]
    for isa in avx2 avx512; do # as on a processor that has nothing newer
        [ $isa = "$here" ] || [ "$here" = avx512 ] || continue
        [ "$(noted $isa)" = $isa ]
    done
}

@test "isa: the AVX-512 kernels use its registers, those of AVX2 do not" {
    [ "$(uname -m)" = x86_64 ] || skip "skipped: not x86-64"
    objects=$build/obj/libsq/op/cpu
    zmm() {
        objdump -d --no-show-raw-insn "$objects/vec_$1.o" | grep -cE '%zmm'
    }
    [ "$(zmm avx2)" -eq 0 ]
    [ "$(zmm avx512)" -gt 1000 ]
    # the tile: 12 x 2 sums, in registers
    objdump -d --no-show-raw-insn "$objects/vec_avx512.o" | sed -n '/<tile_mul>:/,/ret/p' >tile
    [ "$(grep -c 'vfmadd.*%zmm' tile)" -ge 24 ]
}
