# SPDX-License-Identifier: GPL-2.0
#
# Each target builds what it needs first. `make help` lists the targets.

SCRIPTS := $(CURDIR)/scripts

export KERNEL KDIR SUITE MIRROR ROOT ACCEL MUTATION V TRIPS ATTACKS SEED PARTS TIMES NATIVE REPORT TURN

.DEFAULT_GOAL := all
.PHONY: all run consoles demo try test test-host test-module test-harness test-driver test-programs test-rust-vmm test-vmm test-vm test-uml test-qemu test-fuzz test-attack test-miri test-conformance test-deb test-secure-boot test-debug test-pictures test-hosts test-libvirt soak deb fuzz fuzz-host debug-kernel bench check doc shell install clean help

all:
	@ko=$$($(SCRIPTS)/module) && echo "$$ko"

PROTO ?= v1
QEMU ?= $(if $(filter v2,$(PROTO)),10,7.2)
DEVICE ?= mdma

run:
	@$(SCRIPTS)/migrate run --qemu $(QEMU) --device $(DEVICE)

consoles:
	@$(SCRIPTS)/migrate consoles --qemu $(QEMU) --device $(DEVICE)

demo:
	@$(SCRIPTS)/demo --device $(DEVICE)

try:
	@$(SCRIPTS)/try $(TEST)

test:
	@$(SCRIPTS)/test

test-host test-module test-harness test-driver test-programs test-rust-vmm test-vm test-uml test-qemu test-fuzz test-attack test-miri test-conformance test-deb test-secure-boot test-debug test-pictures test-hosts test-libvirt: test-%:
	@$(SCRIPTS)/test $*

test-vmm:
	@$(SCRIPTS)/test rust-vmm qemu

HOURS ?= 1

soak:
	@$(SCRIPTS)/migrate soak --hours $(HOURS) --seed $(or $(SEED),$(shell date +%s))

debug-kernel:
	@$(SCRIPTS)/debug-kernel

deb:
	@$(SCRIPTS)/deb

SECONDS ?= 60
MODE ?= kernel

fuzz:
	@$(SCRIPTS)/fuzz --mode $(MODE) --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

fuzz-host:
	@$(SCRIPTS)/fuzz-host --seconds $(SECONDS)

bench:
	@$(SCRIPTS)/bench --device $(DEVICE)$(if $(CHECK), --check)$(if $(UPDATE), --update)$(if $(HTML), --html $(HTML))

check:
	@$(SCRIPTS)/check

doc:
	@$(SCRIPTS)/doc

shell:
	@$(SCRIPTS)/demo --shell --device $(DEVICE)

install:
	@$(SCRIPTS)/module --install

clean:
	@$(SCRIPTS)/module --clean
	@$(SCRIPTS)/userspace --clean

help:
	@echo 'make              build mdma.ko and print its path'
	@echo 'make run          live-migrate a guest and its device with QEMU 7.2 (v1), and draw it;'
	@echo '                  PROTO=v2 uses QEMU 10, PROTO=v2 QEMU=11 QEMU 11;'
	@echo '                  DEVICE=mnvme runs an NVMe disk, DEVICE=mserial a serial port'
	@echo 'make consoles     the same by hand, with both consoles open; PROTO=, QEMU='
	@echo 'make demo         move a device between two containers, without QEMU;'
	@echo '                  DEVICE=scratch, mserial or mnvme moves another one'
	@echo 'make try          run one test or some, natively where possible: TEST=bar.'
	@echo 'make test         run the default tests; the last line has the totals'
	@echo 'make test-host    test what needs no kernel'
	@echo 'make test-module  check the built module: its modinfo and its symbols'
	@echo 'make test-harness check that the test harness misses no failure'
	@echo 'make test-driver  write a driver outside of this tree and test its device'
	@echo 'make test-programs run the demo and the benchmark on each device'
	@echo 'make test-rust-vmm migrate a device by a VMM on rust-vmm'"'"'s crates'
	@echo 'make test-vm      run the selftests in a virtual machine'
	@echo 'make test-uml     run the selftests natively, on user-mode Linux'
	@echo 'make test-qemu    move guests between QEMUs; TRIPS=20 round trips,'
	@echo '                  REPORT=1 writes Documentation/support.rst'
	@echo 'make test-hosts   move a guest between two machines, with different kernels and QEMUs'
	@echo 'make test-libvirt move a guest between two machines by libvirt, save and restore it'
	@echo 'make test-vmm     run all tests with VMMs; REPORT=1 writes Documentation/support.rst'
	@echo 'make soak         migrate random guests in random ways; HOURS=1 SEED=1'
	@echo 'make test-fuzz    check that the fuzzer finds planted bugs'
	@echo 'make test-attack  kill, freeze and limit users; ATTACKS=10000 SEED=1'
	@echo 'make test-conformance  check mdma, scratch and the kernel'"'"'s mtty against the UAPI'
	@echo 'make test-miri    test the protocol core on a big-endian machine, under miri'
	@echo 'make test-deb     install the packages in an empty root, by DKMS for two kernels'
	@echo 'make test-secure-boot  load the modules that DKMS has signed, with Secure Boot'
	@echo 'make test-pictures look at the pages of make run and make bench in a browser'
	@echo 'make test-debug   run selftests and fault injection on a debug kernel'
	@echo 'make deb          build the Debian packages, and print their directory'
	@echo 'make debug-kernel build that kernel and print its path'
	@echo 'make fuzz         run random programs against three devices; SECONDS=60 SEED=1,'
	@echo '                  MODE=memory with KASAN, MODE=locks with lockdep'
	@echo 'make fuzz-host    feed random streams to the protocol core; SECONDS=60'
	@echo 'make bench        count the instructions that each device operation takes;'
	@echo '                  NATIVE=1 measures times instead, as multiples of a memcpy();'
	@echo '                  DEVICE=scratch, mserial or mnvme measures another one;'
	@echo '                  CHECK=1 compares the counts with those in the tree and fails above'
	@echo '                  5 %, UPDATE=1 writes them to the tree;'
	@echo '                  HTML=1 draws the tables as charts, HTML=FILE in that file'
	@echo 'make check        check format, lints, imports, unsafe code, licences, documents'
	@echo 'make doc          build the documents and the crates'\'' documentation as HTML'
	@echo 'make shell        open a shell in the virtual machine, with the module'
	@echo 'make install      install the module for the running kernel'
	@echo 'make clean        delete what was built from this checkout'
	@echo
	@echo 'KERNEL=linux-image-...  the kernel package; scripts/kernel --list lists them'
	@echo 'KDIR=DIR                your own kernel tree'
	@echo 'SUITE=trixie|sid        the Debian release of the build environment'
	@echo 'MIRROR=URL              the package mirror; default: the mirror of this host'
	@echo 'V=1                     print the output of each step'
	@echo 'TIMES=1                 list the slowest tests, and those that wait most'
	@echo 'PARTS=N                 virtual machines that share the tests of test-vm, test-debug'
	@echo
	@echo 'Downloads and build results are in $${XDG_CACHE_HOME:-~/.cache}/vfio-mdev-rs.'
	@echo 'You can delete that directory at any time.'
