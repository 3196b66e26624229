# sq - one non-recursive Makefile. Knobs: CC=gcc|clang DEV=1 SAN=address,undefined|thread V=1 HAVE_BLIS=0 ...
# Targets: all check check-long fuzz bench hdr-check install clean

CC ?= gcc
ifeq ($(CC),cc)
CC := gcc
endif
comma := ,
FLAVOUR := $(notdir $(CC))$(if $(DEV),-dev)$(if $(SAN),-$(subst $(comma),-,$(SAN)))$(if $(TESTING),-testing)
BUILD ?= build
B := $(BUILD)/$(FLAVOUR)
PREFIX ?= /usr/local
Q := $(if $(V),,@)

.DEFAULT_GOAL := all
.SECONDARY:
.DELETE_ON_ERROR:

# ---- what this machine has: compiled and linked, printed once ----
$(B)/config.mk: mk/probe.sh
	$(Q)CC="$(CC)" HAVE_BLIS="$(HAVE_BLIS)" HAVE_ONEDNN="$(HAVE_ONEDNN)" HAVE_ZMQ="$(HAVE_ZMQ)" sh mk/probe.sh $(B)
ifneq ($(MAKECMDGOALS),clean)
include $(B)/config.mk
endif

OPT := $(if $(SAN),-O1 -g -fno-omit-frame-pointer,-O2 -g)
WARN := -Wall -Wextra $(if $(DEV),-Werror -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wwrite-strings)
CFLAGS_ALL := -std=c17 -D_GNU_SOURCE -fopenmp -ffp-contract=off -fno-math-errno -fvisibility=default $(OPT) $(WARN) \
  $(if $(SAN),-fsanitize=$(SAN)) $(if $(TESTING),-DSQ_TESTING) -Ilibsq/include -I$(B) $(CONFIG_CFLAGS) $(CFLAGS)
LDFLAGS_ALL := -fopenmp $(if $(SAN),-fsanitize=$(SAN)) $(LDFLAGS)
LIBS := $(CONFIG_LIBS) -lm

MODULES := base tensor wire tok model op/ref op/cpu op quant window sched pack eval
SRC := $(sort $(foreach m,$(MODULES),$(wildcard libsq/$(m)/*.c)))
OBJ := $(SRC:%.c=$(B)/%.o)
LIB := $(B)/libsq.a
PROGS := $(patsubst bin/%.c,$(B)/bin/%,$(wildcard bin/sq-*.c))
UNIT := $(patsubst tests/%.c,$(B)/tests/%,$(sort $(wildcard tests/unit/test_*.c tests/ops/test_*.c)))
LESSONS := $(patsubst examples/%.c,$(B)/examples/%,$(sort $(wildcard examples/*.c)))
HELPERS := $(patsubst tests/gen/%.c,$(B)/gen/%,$(sort $(wildcard tests/gen/*.c)))

# Vector flags only on kernel files: libsq/op/cpu/<op>_avx2.c and _avx512.c are picked at run time.
$(B)/libsq/op/cpu/%_avx2.o: CFLAGS_ALL += -O3 -mavx2 -mfma -mf16c
$(B)/libsq/op/cpu/%_avx512.o: CFLAGS_ALL += -O3 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c
$(B)/libsq/op/%.o: CFLAGS_ALL += $(if $(SAN),,-O3)

all: $(PROGS) $(LESSONS)
	$(Q)mkdir -p $(BUILD) && ln -sfn $(FLAVOUR)/bin $(BUILD)/bin

$(B)/%.o: %.c $(B)/config.mk
	@mkdir -p $(@D)
	@$(if $(V),,echo "  CC   $<")
	$(Q)$(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

$(LIB): $(OBJ)
	@$(if $(V),,echo "  AR   $@")
	$(Q)rm -f $@ && ar rcs $@ $^

$(B)/bin/%: $(B)/bin/%.o $(LIB)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS) -o $@

$(B)/gen/%: $(B)/tests/gen/%.o $(LIB)
	@mkdir -p $(@D)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS) -o $@

$(B)/examples/%: $(B)/examples/%.o $(LIB)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS) -o $@

$(B)/tests/%: $(B)/tests/%.o $(LIB)
	@$(if $(V),,echo "  LD   $@")
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(LIBS) -lcmocka -o $@

tests: $(UNIT) $(HELPERS)

clean:
	rm -rf $(BUILD)

-include $(OBJ:.o=.d) $(wildcard $(B)/bin/*.d $(B)/tests/*/*.d $(B)/examples/*.d)
.PHONY: all tests clean
