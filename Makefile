# sq - one non-recursive Makefile. Knobs: CC=gcc|clang DEV=1 SAN=address,undefined|thread V=1 HAVE_BLIS=0 HAVE_CXX=0 HAVE_NVCC=0 CUDA_ARCHS="80 90" ...
# Targets: all check check-long fuzz bench hdr-check install clean

CC ?= gcc
ifeq ($(CC),cc)
CC := gcc
endif
comma := ,
FLAVOUR := $(notdir $(CC))$(if $(DEV),-dev)$(if $(SAN),-$(subst $(comma),-,$(SAN)))
BUILD ?= build
B := $(BUILD)/$(FLAVOUR)
PREFIX ?= /usr/local
Q := $(if $(V),,@)

.DEFAULT_GOAL := all
.SECONDARY:
.DELETE_ON_ERROR:

# ---- what this machine has: compiled and linked, printed once ----
$(B)/config.mk: mk/probe.sh
	$(Q)CC="$(CC)" CXX="$(CXX_ALL)" HAVE_BLIS="$(HAVE_BLIS)" HAVE_ONEDNN="$(HAVE_ONEDNN)" HAVE_ZMQ="$(HAVE_ZMQ)" \
	  HAVE_CXX="$(HAVE_CXX)" HAVE_NVCC="$(HAVE_NVCC)" sh mk/probe.sh $(B)
ifneq ($(MAKECMDGOALS),clean)
include $(B)/config.mk
endif

OPT := $(if $(SAN),-O1 -g -fno-omit-frame-pointer,-O2 -g)
SANITIZE := $(if $(SAN),-fsanitize=$(SAN) $(if $(findstring undefined,$(SAN)),-fno-sanitize-recover=undefined))
WARN := -Wall -Wextra $(if $(DEV),-Werror -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wwrite-strings)
CFLAGS_ALL := -std=c17 -D_GNU_SOURCE -fopenmp -ffp-contract=off -fno-math-errno -fvisibility=default $(OPT) $(WARN) \
  $(SANITIZE) -Ilibsq/include -I$(B) $(CONFIG_CFLAGS) $(CFLAGS)
LDFLAGS_ALL := -fopenmp $(SANITIZE) $(LDFLAGS)
LIBS := $(CONFIG_LIBS) -lm

MODULES := base tensor wire tok model op/ref op/cpu op quant window sched pack eval
# C++ only for the emulator of kernels (libsq/op/cuda); without -Wshadow, as our C headers name functions like structs
CXX_ALL := $(if $(filter clang%,$(notdir $(CC))),$(CC:clang%=clang++%),$(patsubst gcc%,g++%,$(CC)))
CXXFLAGS_ALL := -std=c++20 -D_GNU_SOURCE -fopenmp -ffp-contract=off -fPIC -fvisibility=hidden $(OPT) -Wall -Wextra \
  $(if $(DEV),-Werror -Wwrite-strings) $(SANITIZE) \
  $(if $(findstring address,$(SAN)),-DSIMT_PLAIN_SHARED) -Ilibsq/include $(CXXFLAGS)

SRC := $(sort $(foreach m,$(MODULES),$(wildcard libsq/$(m)/*.c)))
OBJ := $(SRC:%.c=$(B)/obj/%.o)
LIB := $(B)/libsq.a
PROGS := $(patsubst bin/%.c,$(B)/bin/%,$(wildcard bin/sq-*.c))
UNIT := $(patsubst tests/%.c,$(B)/tests/%,$(sort $(wildcard tests/unit/test_*.c tests/ops/test_*.c)))
LESSONS := $(patsubst examples/%.c,$(B)/examples/%,$(sort $(wildcard examples/*.c)))
HELPERS := $(patsubst tests/gen/%.c,$(B)/gen/%,$(sort $(wildcard tests/gen/*.c)))

# Vector flags only on kernel files: libsq/op/cpu/<op>_avx2.c and _avx512.c are picked at run time.
# tests/ops/vec_wide_avx2.c is the source of the AVX-512 kernels in AVX2 registers, for the tests.
$(B)/obj/libsq/op/cpu/%_avx2.o $(B)/obj/tests/ops/%_avx2.o: CFLAGS_ALL += $(if $(SAN),,-O3) -mavx2 -mfma -mf16c
$(B)/obj/libsq/op/cpu/%_avx512.o: CFLAGS_ALL += $(if $(SAN),,-O3) -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c
$(B)/obj/libsq/op/%.o $(B)/obj/libsq/quant/fold.o $(B)/obj/libsq/quant/fold_grad.o $(B)/obj/libsq/tensor/dtype.o: CFLAGS_ALL += $(if $(SAN),,-O3)
$(B)/obj/libsq/op/cpu/%.o $(B)/obj/tests/ops/%_avx2.o: CFLAGS_ALL += -Wno-psabi

all: $(PROGS) $(LESSONS) $(if $(EMULATES),$(B)/lib/sq/libsq_emu.so) $(if $(NVCC),$(B)/lib/sq/libsq_cuda.so)
	$(Q)mkdir -p $(BUILD) && ln -sfn $(FLAVOUR)/bin $(BUILD)/bin

$(B)/obj/%.o: %.c $(B)/config.mk
	@mkdir -p $(@D)
	@$(if $(V),,echo "  CC   $<")
	$(Q)$(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

$(LIB): $(OBJ)
	@$(if $(V),,echo "  AR   $@")
	$(Q)rm -f $@ && ar rcs $@ $^

$(B)/bin/%: $(B)/obj/bin/%.o $(LIB)
	@mkdir -p $(@D)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS) -o $@

$(B)/gen/%: $(B)/obj/tests/gen/%.o $(LIB)
	@mkdir -p $(@D)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS) -o $@

$(B)/examples/%: $(B)/obj/examples/%.o $(LIB)
	@mkdir -p $(@D)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS) -o $@

$(B)/tests/%: $(B)/obj/tests/%.o $(LIB)
	@mkdir -p $(@D)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(CC) $(LDFLAGS_ALL) $(filter %.o,$^) $(LIB) $(LIBS) -lcmocka -o $@

$(filter $(B)/tests/ops/%,$(UNIT)): $(B)/obj/tests/ops/vec_wide_avx2.o

# ---- accelerators: the same kernels by the C++ compiler, which emulates, and by nvcc; libsq/op/cuda ----
EMU_OBJ := $(patsubst %,$(B)/obj/%.o,$(sort $(wildcard libsq/op/cuda/*_cuda.cu libsq/op/cuda/*.cpp)))
CUDA := $(BUILD)/cuda
CUDA_OBJ := $(patsubst %,$(CUDA)/%.o,$(sort $(wildcard libsq/op/cuda/*.cu)))
CUDA_ARCHS ?= 75 80 90 100
NVCCFLAGS := -std=c++20 -O3 -fmad=false -Werror all-warnings -Xcompiler -Wall,-Wextra,-fPIC,-fvisibility=hidden,-ffp-contract=off -Ilibsq/include
NVCCARCHS := $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a)$(comma)code=sm_$(a)) \
  -gencode arch=compute_$(lastword $(CUDA_ARCHS))$(comma)code=compute_$(lastword $(CUDA_ARCHS))

$(B)/obj/%.cu.o: %.cu $(B)/config.mk
	@mkdir -p $(@D)
	@$(if $(V),,echo "  CXX  $<")
	$(Q)$(CXX_ALL) $(CXXFLAGS_ALL) -MMD -MP -x c++ -c $< -o $@

$(B)/obj/%.cpp.o: %.cpp $(B)/config.mk
	@mkdir -p $(@D)
	@$(if $(V),,echo "  CXX  $<")
	$(Q)$(CXX_ALL) $(CXXFLAGS_ALL) -MMD -MP -c $< -o $@

$(B)/lib/sq/libsq_emu.so: $(EMU_OBJ)
	@mkdir -p $(@D)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(CXX_ALL) -shared $(LDFLAGS_ALL) $^ -o $@

$(B)/gen/simt_faults: $(B)/obj/tests/gen/simt_faults.cu.o $(B)/obj/libsq/op/cuda/simt.cpp.o $(B)/obj/libsq/op/cuda/simt_tensor.cpp.o
	@mkdir -p $(@D)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(CXX_ALL) $(LDFLAGS_ALL) $^ -o $@

$(B)/gen/libsq_wrong.so: $(B)/obj/tests/gen/wrong_device.cu.o
	@mkdir -p $(@D)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(CXX_ALL) -shared $(LDFLAGS_ALL) $^ -ldl -o $@

# one for all flavours; what ptxas says of every kernel stays beside the object
$(CUDA)/%.o: % | $(B)/config.mk
	@mkdir -p $(@D)
	@$(if $(V),,echo "  NVCC $<")
	$(Q)$(NVCC) $(NVCCFLAGS) $(NVCCARCHS) -Xptxas -v -MMD -MF $(@:.o=.d) -c $< -o $@ 2>$(@:.o=.log) || { grep -v "^ptxas info\|bytes stack frame" $(@:.o=.log) >&2; exit 1; }

$(CUDA)/libsq_cuda.so: $(CUDA_OBJ)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(NVCC) -shared -cudart static $^ -ldl -o $@

$(B)/lib/sq/libsq_cuda.so: $(CUDA)/libsq_cuda.so
	@mkdir -p $(@D)
	$(Q)ln -sf $(abspath $<) $@

# of small kernels, for tests/ptx, which interprets it
PTX := $(patsubst %,$(CUDA)/ptx/%.ptx,norm elem rowquant)
$(CUDA)/ptx/%.ptx: libsq/op/cuda/%_cuda.cu $(wildcard libsq/op/cuda/*.h) | $(B)/config.mk
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(NVCCFLAGS) -arch=compute_80 -ptx $< -o $@

# registers and spills of every kernel: make registers, then look at the difference
registers: $(if $(NVCC),$(CUDA)/libsq_cuda.so)
	$(Q)$(if $(NVCC),,echo "registers: this tree was built without nvcc" >&2; exit 1)
	$(Q)sh mk/registers.sh $(NVCC) $(CUDA_OBJ:.o=.log) >libsq/op/cuda/registers.txt

tests: $(UNIT) $(HELPERS) $(B)/lib/sq/libsq_emu.so $(B)/gen/simt_faults $(B)/gen/libsq_wrong.so $(if $(NVCC),$(PTX))

# ---- checks ----
check: all tests
	$(Q)sh mk/order.sh
	$(Q)tests/run.sh $(B)

# Needs minutes to hours, Python peers and ../shared: tests/long/README.md says what and how.
check-long: all tests
	$(Q)tests/long/run.sh $(B)

hdr-check: $(B)/config.mk
	$(Q)for h in libsq/include/sq/*.h; do \
	  n=sq/$$(basename $$h); \
	  echo "#include \"$$n\"" | $(CC) -std=c17 -D_GNU_SOURCE -Wall -Wextra -Werror -Ilibsq/include -fsyntax-only -x c - || exit 1; \
	  echo "#include \"$$n\"" | $(CC) -Wall -Wextra -Werror -Ilibsq/include -fsyntax-only -x c++ - || exit 1; \
	done; echo "headers stand alone"

# ---- fuzzing: make fuzz CC=clang runs each target for FUZZ_SECONDS; fuzz-replay is the corpus with any compiler ----
FUZZ := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_SECONDS ?= 600
fuzz-replay: $(FUZZ)

$(B)/fuzz/%: $(B)/obj/tests/fuzz/%.o $(B)/obj/tests/fuzz/replay.o $(LIB)
	@mkdir -p $(@D)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS) -o $@

fuzz:
	$(Q)$(MAKE) CC=clang SAN=fuzzer-no-link,address,undefined fuzz-run

fuzz-run: $(patsubst %,%.libfuzzer,$(FUZZ))
	$(Q)for t in $^; do n=$$(basename $$t .libfuzzer); mkdir -p $(BUILD)/corpus/$$n; \
	  echo "== $$n"; $$t -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 -print_final_stats=1 $(BUILD)/corpus/$$n tests/fuzz/corpus/$$n 2>&1 | tail -12 || exit 1; done

$(B)/fuzz/%.libfuzzer: $(B)/obj/tests/fuzz/%.o $(LIB)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) -fsanitize=fuzzer $^ $(LIBS) -o $@

# ---- sq beside its own products, PyTorch and llama.cpp: bench/README.md; BENCH_ARGS: options of bench/run.py ----
$(B)/bench/%: $(B)/obj/bench/%.o $(LIB)
	@mkdir -p $(@D)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS) -o $@

bench: all tests $(B)/bench/ops $(B)/bench/ceiling
	$(Q)SQ_BUILD=$(abspath $(B)) $${SQ_PYTHON:-python3} bench/run.py $(BENCH_ARGS)

# ---- man pages: the hand-written part is man/<prog>.1.in, synopsis and options come from the program ----
MAN := $(patsubst man/%.1.in,$(B)/man/%.1,$(sort $(wildcard man/*.1.in))) $(patsubst man/%,$(B)/man/%,$(wildcard man/*.7))
man: $(MAN)

$(B)/man/%.1: man/%.1.in $(B)/bin/%
	@mkdir -p $(@D)
	$(Q)$(B)/bin/$* --man >$@.options
	$(Q)sed -e '/^@OPTIONS@$$/{' -e 'r $@.options' -e d -e '}' $< >$@ && rm $@.options

$(B)/man/%.7: man/%.7
	@mkdir -p $(@D)
	$(Q)cp $< $@

install: all man
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man7 \
	  $(DESTDIR)$(PREFIX)/share/sq/pipelines/slurm $(DESTDIR)$(PREFIX)/include/sq $(DESTDIR)$(PREFIX)/lib
	install -m 755 $(PROGS) $(DESTDIR)$(PREFIX)/bin
	install -m 644 libsq/include/sq/*.h $(DESTDIR)$(PREFIX)/include/sq
	install -m 644 $(LIB) $(DESTDIR)$(PREFIX)/lib
	$(if $(EMULATES),install -d $(DESTDIR)$(PREFIX)/lib/sq && install -m 755 $(B)/lib/sq/libsq_emu.so $(DESTDIR)$(PREFIX)/lib/sq)
	$(if $(NVCC),install -d $(DESTDIR)$(PREFIX)/lib/sq && install -m 755 $(CUDA)/libsq_cuda.so $(DESTDIR)$(PREFIX)/lib/sq)
	install -m 755 $(filter-out pipelines/demo.sh,$(wildcard pipelines/*.sh)) $(DESTDIR)$(PREFIX)/share/sq/pipelines
	install -m 755 $(wildcard pipelines/slurm/*.sh) $(DESTDIR)$(PREFIX)/share/sq/pipelines/slurm
	$(if $(filter %.1,$(MAN)),install -m 644 $(filter %.1,$(MAN)) $(DESTDIR)$(PREFIX)/share/man/man1)
	$(if $(filter %.7,$(MAN)),install -m 644 $(filter %.7,$(MAN)) $(DESTDIR)$(PREFIX)/share/man/man7)

clean:
	rm -rf $(BUILD)

-include $(shell find $(B)/obj $(CUDA) -name "*.d" 2>/dev/null)
.PHONY: all registers tests check check-long bench hdr-check fuzz fuzz-run fuzz-replay man install clean
