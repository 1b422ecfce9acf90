# upcalld: `make help` lists what there is. Cargo does the building; what is here is what cargo cannot say.

SHELL   := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

PREFIX  ?= /usr
DESTDIR ?=
CARGO   ?= cargo
# release, or debug for a package that tests install.
BUILD   ?= release
# Where install and deb make what is not built by cargo.
WORK    ?= $(TARGET)
TARGET  := $(or $(CARGO_TARGET_DIR),target)
export CARGO_TARGET_DIR := $(abspath $(TARGET))

# What is built for another place looks there.
ifneq ($(PREFIX),/usr)
export UPCALLD_LIB := $(PREFIX)/lib/upcalld
export UPCALLD_LIBEXEC := $(PREFIX)/libexec/upcalld
endif

# What the kernel or the launcher starts, and what the tests start inside containers: static, so that nothing is
# loaded from where they run. One cargo call each: flags for a whole workspace would reach its proc macros too.
HELPERS  := upcall-shim upcall-enter upcall-store upcall-place
PROGRAMS := $(TARGET)/helper
STATIC   := -Ctarget-feature=+crt-static
# What the kernel and every upcall wait for, with musl where rustup has it: glibc asks the processor some eighty things
# before main, and in a virtual machine each of them is the hypervisor's to answer.
WAITED   := upcall-shim upcall-enter upcall-place
MUSL     := $(shell uname -m)-unknown-linux-musl
HAS_MUSL := $(wildcard $(shell $(or $(RUSTC),rustc) --print target-libdir --target $(MUSL) 2>/dev/null)/libstd-*.rlib)

# Where shells look for completions, below PREFIX.
COMPLETIONS := share/bash-completion/completions/upcallctl share/zsh/vendor-completions/_upcallctl \
	share/fish/vendor_completions.d/upcallctl.fish

# Debian packages.
BUILD_PACKAGES := gcc libc6-dev
DEMO_PACKAGES  := $(BUILD_PACKAGES) runc/runc podman/podman conmon/conmon busybox-static util-linux
# Runtimes that only tests use; `make check RUNTIME_PACKAGES=` leaves them out, and says which tests that leaves out.
# A name with a `?` is installed where this Debian has it; behind a slash: the program that makes it superfluous.
RUNTIME_PACKAGES := crun uidmap containerd/containerd docker.io/dockerd docker-cli?/docker lxc systemd-container dbus python3-grpcio
# What Debian's kernels are fetched and started with, but for QEMU, which tests/vm/qemu finds.
KERNEL_PACKAGES := binutils cpio kmod xz-utils zstd keyutils libcap2-bin debian-archive-keyring
CHECK_PACKAGES := $(DEMO_PACKAGES) $(KERNEL_PACKAGES) gdb/gdb e2fsprogs systemd $(RUNTIME_PACKAGES)

.PHONY: help build helpers test-programs bench-peer demo check check-host check-keyutils check-kernels bench soak fuzz install uninstall
.PHONY: deb clean

help:
	@echo 'upcalld: the kernel'\''s upcalls, answered in the right container'
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS=$$'\t' read -r name what; do \
		[ "$$name" = build ] && name= ; printf '  make %-14s %s\n' "$$name" "$$what"; done
	@echo 'demo and check install the Debian packages they lack and name them first'

build: helpers ## build it; what the kernel starts is linked statically
	@$(CARGO) build $(if $(filter release,$(BUILD)),--release) --quiet --package upcalld --bins

helpers:
	@tools/need $(BUILD_PACKAGES)
	@for program in $(if $(HAS_MUSL),$(filter-out $(WAITED),$(HELPERS)),$(HELPERS)); do \
		$(CARGO) rustc --quiet --package upcall-helpers --bin $$program --profile helper -- $(STATIC); done
	@for program in $(if $(HAS_MUSL),$(WAITED)); do \
		$(CARGO) rustc --quiet --package upcall-helpers --no-default-features --features programs \
			--bin $$program --profile helper --target $(MUSL); \
		install -D $(TARGET)/$(MUSL)/helper/$$program $(PROGRAMS)/$$program; done

# With symbols: a debugger is to find in a core what crashed.
test-programs: helpers
	@for program in upcall-probe crash-me key-me module-me; do \
		$(CARGO) rustc --quiet --package upcall-e2e --no-default-features --bin $$program \
			--profile helper -- $(STATIC) -Cstrip=none; done

bench-peer: helpers
	@$(CARGO) rustc --quiet --package upcall-e2e --no-default-features --bin bench-peer --profile helper -- $(STATIC)

demo: ## nine real crashes (runc, podman, host, nested, unregistered): who asked, what ran inside; root, 1 min
	@tools/need --report $(TARGET)/packages.txt $(DEMO_PACKAGES)
	@$(MAKE) --no-print-directory build test-programs
	@$(CARGO) build --release --quiet --package upcall-e2e --bin demo
	@exec $(TARGET)/release/demo --libexec $(PROGRAMS) --daemon $(TARGET)/release/upcalld \
		--packages "$$(cat $(TARGET)/packages.txt)"

check: ## every test that leaves this host's hooks alone, and what it left out; root
	@tools/check $(CHECK_PACKAGES)

check-host: ## the rest, on this host's real hooks, saved and put back also on failure; root
	@tools/check --host $(CHECK_PACKAGES)

check-kernels: ## the end-to-end tests on Debian's kernels, oldest to newest, in virtual machines; root, 3 h
	@tools/check --kernels $(CHECK_PACKAGES)

check-keyutils: ## keyutils' own tests, without us and with us in the kernel's place; root, 5 min
	@tools/check --keyutils $(CHECK_PACKAGES) lsb-release/lsb_release file/file

bench: ## side by side with what the kernel and other handlers cost: medians, ratios
	@tools/need $(DEMO_PACKAGES)
	@$(MAKE) --no-print-directory build test-programs bench-peer
	@$(CARGO) build --release --quiet --package upcall-e2e --bin bench
	@$(TARGET)/release/bench --libexec $(PROGRAMS) --daemon $(TARGET)/release/upcalld
	@$(CARGO) bench --quiet --package upcall-config

soak: ## crashes, keys, restarts and new containers for ten minutes (SECONDS=600 SEED=1), compared with the records
	@tools/need $(DEMO_PACKAGES) keyutils
	@$(MAKE) --no-print-directory build test-programs
	@$(CARGO) build --release --quiet --package upcall-e2e --bin soak
	@exec $(TARGET)/release/soak --libexec $(PROGRAMS) --daemon $(TARGET)/release/upcalld \
		--seconds $(or $(SECONDS),600) --seed $(or $(SEED),1)

fuzz: ## every fuzz target for a minute (SECONDS_EACH=60)
	@tools/fuzz $(or $(SECONDS_EACH),60)

install: build ## DESTDIR= PREFIX=/usr; touches no hook, that is `upcallctl install`
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/libexec/upcalld
	install -d $(DESTDIR)$(PREFIX)/lib/upcalld/rules.d $(DESTDIR)$(PREFIX)/share/doc/upcalld/examples
	install -d $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 755 $(TARGET)/$(BUILD)/upcallctl $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $(TARGET)/$(BUILD)/upcalld $(DESTDIR)$(PREFIX)/sbin/
	install -m 755 $(addprefix $(PROGRAMS)/,$(HELPERS)) $(DESTDIR)$(PREFIX)/libexec/upcalld/
	ln -sf upcall-shim $(DESTDIR)$(PREFIX)/libexec/upcalld/core
	ln -sf upcall-shim $(DESTDIR)$(PREFIX)/libexec/upcalld/request-key
	ln -sf upcall-shim $(DESTDIR)$(PREFIX)/libexec/upcalld/modprobe
	install -m 644 config/defaults/rules.d/*.toml $(DESTDIR)$(PREFIX)/lib/upcalld/rules.d/
	install -m 644 config/defaults/upcalld.toml config/defaults/examples/*.toml \
		$(DESTDIR)$(PREFIX)/share/doc/upcalld/examples/
	install -D -m 644 config/defaults/request-key.d/upcalld.conf.example \
		$(DESTDIR)$(PREFIX)/share/doc/upcalld/examples/request-key.d/upcalld.conf
	install -m 644 README.md CHANGELOG.md LICENSE docs/*.md $(DESTDIR)$(PREFIX)/share/doc/upcalld/
	install -m 644 docs/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8/
	for kind in systemd/system tmpfiles.d sysusers.d; do install -d $(DESTDIR)$(PREFIX)/lib/$$kind; done
	for unit in config/defaults/systemd/*; do \
		sed 's|/usr/sbin/upcalld|$(PREFIX)/sbin/upcalld|; s|/usr/bin/|$(PREFIX)/bin/|; s|/usr/share/|$(PREFIX)/share/|' \
			$$unit > $(DESTDIR)$(PREFIX)/lib/systemd/system/$${unit##*/}; done
	install -m 644 config/defaults/tmpfiles.d/*.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/
	install -m 644 config/defaults/sysusers.d/*.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/
	install -m 644 docs/*.schema.json $(DESTDIR)$(PREFIX)/share/doc/upcalld/
	install -d $(WORK)/completions
	$(TARGET)/$(BUILD)/upcallctl generate completions $(WORK)/completions
	mv $(WORK)/completions/upcallctl.bash $(WORK)/completions/upcallctl
	for file in $(COMPLETIONS); do \
		install -D -m 644 $(WORK)/completions/$${file##*/} $(DESTDIR)$(PREFIX)/$$file; done

uninstall: ## puts the hooks back, then removes the files
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
		systemctl disable --now upcalld-hooks.service upcalld.service upcalld.socket || true; fi
	@if [ -z "$(DESTDIR)" ] && [ -x $(PREFIX)/bin/upcallctl ]; then $(PREFIX)/bin/upcallctl uninstall; fi
	rm -f $(DESTDIR)$(PREFIX)/bin/upcallctl $(DESTDIR)$(PREFIX)/sbin/upcalld
	rm -rf $(DESTDIR)$(PREFIX)/libexec/upcalld $(DESTDIR)$(PREFIX)/lib/upcalld
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/upcalld
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/lib/systemd/system/,$(notdir $(wildcard config/defaults/systemd/*)))
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/lib/,tmpfiles.d/upcalld.conf sysusers.d/upcalld.conf)
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,$(COMPLETIONS))
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/man/man8/,$(notdir $(wildcard docs/man/*.8)))
	@if [ -z "$(DESTDIR)" ]; then rm -f /run/upcalld.lock; fi
	@echo 'kept: records, cores and rules of yours in $(DESTDIR)/var/lib/upcalld and $(DESTDIR)/etc/upcalld'

deb: ## a Debian package of it
	@rm -rf $(WORK)/deb && mkdir -p $(WORK)/deb/tree
	@$(MAKE) --no-print-directory install DESTDIR=$(abspath $(WORK))/deb/tree PREFIX=/usr >/dev/null
	@tools/deb $(WORK)/deb/tree $(WORK)/deb

clean: ## what was built
	$(CARGO) clean
