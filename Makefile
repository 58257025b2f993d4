# SPDX-License-Identifier: GPL-2.0
#
# Each target makes all that it needs. `make help` tells them.

SCRIPTS := $(CURDIR)/scripts

export KERNEL KDIR SUITE MIRROR ROOT ACCEL BREAK V TRIPS ATTACKS SEED

.DEFAULT_GOAL := all
.PHONY: all run consoles demo test test-host test-module test-harness test-vm test-qemu test-fuzz test-attack test-miri test-debug fuzz fuzz-host debug-kernel bench check shell install clean help

all:
	@ko=$$($(SCRIPTS)/module) && echo "$$ko"

PROTO ?= v1
QEMU ?= $(if $(filter v2,$(PROTO)),10,7.2)

run:
	@$(SCRIPTS)/migrate run --qemu $(QEMU)

consoles:
	@$(SCRIPTS)/migrate consoles --qemu $(QEMU)

demo:
	@$(SCRIPTS)/run

test:
	@$(SCRIPTS)/test

test-host test-module test-harness test-vm test-qemu test-fuzz test-attack test-miri test-debug: test-%:
	@$(SCRIPTS)/test $*

debug-kernel:
	@$(SCRIPTS)/debug-kernel

SECONDS ?= 60
SEED ?= 1

fuzz:
	@$(SCRIPTS)/fuzz --seconds $(SECONDS) --seed $(SEED)

fuzz-host:
	@$(SCRIPTS)/fuzz-host --seconds $(SECONDS)

bench:
	@$(SCRIPTS)/bench

check:
	@$(SCRIPTS)/check

shell:
	@$(SCRIPTS)/run --shell

install:
	@$(SCRIPTS)/module --install

clean:
	@$(SCRIPTS)/module --clean
	@$(SCRIPTS)/userspace --clean

help:
	@echo 'make             build the module mdma.ko and print where it is'
	@echo 'make run         QEMU 7.2 moves a running guest and its device, before your eyes'
	@echo 'make run PROTO=v2 QEMU 10 does, or 11 with QEMU=11, by the other protocol'
	@echo 'make consoles    the same by hand; PROTO= and QEMU= as for make run'
	@echo 'make demo        without QEMU: a device moves between two containers'
	@echo 'make test        the layers of tests; the last line says how many passed and failed'
	@echo 'make test-host   the tests that need no kernel'
	@echo 'make test-module the built module: its modinfo and what it exports'
	@echo 'make test-harness that the test harness itself misses no failure'
	@echo 'make test-vm     the selftests, in a virtual machine'
	@echo 'make test-qemu   guests that move between QEMUs; TRIPS=20 for round trips'
	@echo 'make test-fuzz   that the fuzzer finds what is planted'
	@echo 'make test-attack users who are killed, frozen and limited: ATTACKS=10000 SEED=1'
	@echo 'make test-miri   the protocol core on a big-endian machine, by miri'
	@echo 'make fuzz        random programs against the module: SECONDS=60 SEED=1'
	@echo 'make test-debug  the selftests, and more, on a kernel that looks for mistakes'
	@echo 'make debug-kernel build that kernel and print where it is'
	@echo 'make fuzz-host   random streams and sessions against the protocol core'
	@echo 'make bench       the instructions that each thing the device does takes'
	@echo 'make check       formatting, lints, licences, documentation'
	@echo 'make shell       a shell in the virtual machine, the module at hand'
	@echo 'make install     install the module for the running kernel'
	@echo 'make clean       forget what was built from this checkout'
	@echo
	@echo 'KERNEL=linux-image-...  the kernel package (scripts/kernel --list)'
	@echo 'KDIR=DIR                a kernel tree of your own'
	@echo 'SUITE=trixie|sid        the Debian suite of the build environment'
	@echo 'MIRROR=URL              the package mirror; default is that of this machine'
	@echo 'V=1                     show everything that is run'
	@echo
	@echo 'Downloads and built files are in $${XDG_CACHE_HOME:-~/.cache}/vfio-mdev-rs;'
	@echo 'deleting that is always safe.'
