# SPDX-License-Identifier: GPL-2.0
#
# The framework in a module. A Kbuild file includes this, and its directory has the folder
# rust, or a link to it. It sets
#
#   framework              the objects that a module needs besides those of its driver
#   $(call uses,CRATES)    the flags of a crate that uses these crates
#   $(call crate,NAME,FOLDER,CRATES)
#                          the flags of a library crate that uses these crates

crates := bindings kernel_ext vfio pci_function migration migratable
framework := $(crates:%=rust/%/lib.o)
framework += $(sort $(patsubst $(src)/%.c,%.o,$(wildcard $(src)/rust/helpers/*.c)))

# The header of the trace events includes itself, by <trace/define_trace.h>.
CFLAGS_rust/helpers/trace.o := -I$(src)/rust/helpers

# For fuzzers, where the kernel has CONFIG_KCOV; nothing elsewhere.
KCOV_INSTRUMENT := y

# Where the generated files of rust/bindings are, for include!().
export VFIO_BINDINGS_DIR := $(abspath $(obj))/rust/bindings

# crate NAME,FOLDER,CRATES - flags of a library crate that uses CRATES.
crate = --crate-name $(1) --emit=metadata=$(obj)/$(2)/lib$(1).rmeta $(call uses,$(3))
uses = $(patsubst %,-L dependency=$(obj)/rust/%,$(crates)) $(foreach c,$(1),--extern $(c)=$(rmeta_$(c)))
rmeta_vfio_bindings := $(obj)/rust/bindings/libvfio_bindings.rmeta
rmeta_kernel_ext := $(obj)/rust/kernel_ext/libkernel_ext.rmeta
rmeta_vfio := $(obj)/rust/vfio/libvfio.rmeta
rmeta_pci_function := $(obj)/rust/pci_function/libpci_function.rmeta
rmeta_migration := $(obj)/rust/migration/libmigration.rmeta
rmeta_migratable := $(obj)/rust/migratable/libmigratable.rmeta

RUSTFLAGS_rust/bindings/lib.o := $(call crate,vfio_bindings,rust/bindings)
RUSTFLAGS_rust/kernel_ext/lib.o := $(call crate,kernel_ext,rust/kernel_ext,vfio_bindings)
RUSTFLAGS_rust/vfio/lib.o := $(call crate,vfio,rust/vfio,vfio_bindings kernel_ext)
RUSTFLAGS_rust/pci_function/lib.o := \
	$(call crate,pci_function,rust/pci_function,vfio_bindings kernel_ext vfio)
# Kbuild adds no_std by itself; the crate says so too, for cargo.
RUSTFLAGS_rust/migration/lib.o := $(call crate,migration,rust/migration) \
	-Aunused_attributes -Aclippy::duplicated_attributes
RUSTFLAGS_rust/migratable/lib.o := $(call crate,migratable,rust/migratable,\
	vfio_bindings kernel_ext vfio pci_function migration)

ifneq ($(MUTATION),)
# For mutation tests: a module with a mistake, see mutation.rs in rust/vfio and rust/migratable.
ifeq ($(filter dirty-page memory-page,$(MUTATION)),)
$(error MUTATION is dirty-page or memory-page)
endif
RUSTFLAGS_rust/vfio/lib.o += --cfg mutation_$(subst -,_,$(MUTATION))
RUSTFLAGS_rust/migratable/lib.o += --cfg mutation_$(subst -,_,$(MUTATION))
CFLAGS_rust/helpers/mutation.o := -DVFIO_MUTATION='"$(MUTATION)"'
endif
ifneq ($(WORKER),)
# For tests: the work queue of kernels without CONFIG_VHOST_TASK.
ifneq ($(WORKER),queue)
$(error WORKER is queue)
endif
RUSTFLAGS_rust/kernel_ext/lib.o += --cfg worker_queue
endif

# rustc names files of this kind as prerequisites. Kbuild's pattern rule would make them again
# in the kernel's tree, with the flags of this module, and then all crates.
$(wildcard $(abspath $(objtree))/rust/kernel/generated_arch_*.rs): ;

# Kbuild passes the name of an object's module to rustc. These are in several, and need none.
$(crates:%=$(obj)/rust/%/lib.o): private modfile := framework

$(obj)/rust/bindings/lib.o: $(obj)/rust/bindings/bindings_generated.rs \
	$(obj)/rust/bindings/layout_generated.rs
$(obj)/rust/kernel_ext/lib.o: $(obj)/rust/bindings/lib.o
$(obj)/rust/vfio/lib.o: $(obj)/rust/kernel_ext/lib.o
$(obj)/rust/pci_function/lib.o: $(obj)/rust/vfio/lib.o
$(obj)/rust/migratable/lib.o: $(obj)/rust/pci_function/lib.o $(obj)/rust/migration/lib.o

# Bindings
# ---------------------------------------------------------------------------
#
# What the kernel's own bindings leave out, made the way the kernel makes those:
# the list of flags libclang does not know is read from the kernel's Makefile,
# so that it is the one of the kernel built for.

ifdef CONFIG_CC_IS_CLANG
vfio_bindgen_c_flags = $(c_flags)
else
vfio_bindgen_skip_c_flags := $(shell sed -n \
	'/^bindgen_skip_c_flags *:=/,/[^\\]$$/{s/^bindgen_skip_c_flags *:=//;s/\\$$//;p}' \
	$(srctree)/rust/Makefile)
vfio_bindgen_target := $(shell sed -n \
	's/^BINDGEN_TARGET_$(SRCARCH)[[:space:]]*:= *//p' $(srctree)/rust/Makefile)
vfio_bindgen_c_flags = $(filter-out $(vfio_bindgen_skip_c_flags), $(c_flags)) \
	-w --target=$(vfio_bindgen_target)
endif

quiet_cmd_vfio_bindgen = BINDGEN $(quiet_modtag) $@
      cmd_vfio_bindgen = \
	$(BINDGEN) $< $(shell grep -Ev '^#|^$$' $(srctree)/rust/bindgen_parameters) \
		$(shell grep -Ev '^#|^$$' $(src)/rust/bindings/bindgen_parameters) \
		--rust-target 1.85 --use-core --with-derive-default --ctypes-prefix ffi \
		--no-layout-tests --no-debug '.*' --enable-function-attribute-detection \
		-o $@ -- $(filter-out $(CC_FLAGS_LTO), $(vfio_bindgen_c_flags)) \
		-fno-builtin -D__BINDGEN__ -DMODULE

$(obj)/rust/bindings/bindings_generated.rs: $(src)/rust/bindings/bindings_helper.h \
		$(src)/rust/bindings/bindgen_parameters FORCE
	$(call if_changed_dep,vfio_bindgen)

# Sizes and offsets as the C compiler sees them, for the crate to compare with.
$(obj)/rust/bindings/layout.s: $(src)/rust/bindings/layout.c FORCE
	$(call if_changed_dep,cc_s_c)

quiet_cmd_vfio_layout = LAYOUT  $(quiet_modtag) $@
      cmd_vfio_layout = sed -ne \
	's/.*->\([A-Za-z0-9_]*\) [\$$\#]*\([0-9]*\) .*/pub(crate) const \1: usize = \2;/p' $< > $@

$(obj)/rust/bindings/layout_generated.rs: $(obj)/rust/bindings/layout.s FORCE
	$(call if_changed,vfio_layout)

targets += rust/bindings/bindings_generated.rs rust/bindings/layout.s \
	rust/bindings/layout_generated.rs
clean-files := rust/bindings/bindings_generated.rs rust/bindings/layout_generated.rs \
	$(patsubst $(obj)/%,%,$(foreach c,vfio_bindings kernel_ext vfio pci_function migration \
		migratable,$(rmeta_$(c))))
