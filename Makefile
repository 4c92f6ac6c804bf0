# Everything a newcomer or CI needs. ARGS passes options on: make demo ARGS="--seconds 30 --json"
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=
DEMO_TOOLS := iproute2 iperf3 wireguard-tools
TEST_TOOLS := $(DEMO_TOOLS) iputils-ping wireguard-go tcpdump ethtool nftables mosquitto
BENCH_TOOLS := iproute2 iperf3 ethtool nftables wireguard-go
SYSTEMD_TOOLS := systemd-container debootstrap
NETNS_TOOLS := iproute2 iptables iputils-ping iperf3 ncat wireguard-tools xz-utils
KERNEL_TOOLS := qemu-system-x86 qemu-system-common busybox-static $(TEST_TOOLS)
TOOLS  := .tools
OUT    := >&2

.PHONY: venv dev demo-tools test-tools bench-tools kernel-tools liboqs demo scenarios test test-faults test-kernel deb test-systemd test-netns sim soak mutants rekeys outage page-pictures lint diagrams bench sweep plots install uninstall clean formal lock audit-deps sbom wheel test-minimum test-pythons timing man fuzz model-plans mutation coverage

venv: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml
	@scripts/make-venv $(PYTHON) $(VENV) . $(OUT)
	@touch $@

dev: $(VENV)/.dev
$(VENV)/.dev: pyproject.toml
	@scripts/make-venv $(PYTHON) $(VENV) '.[dev]' $(OUT)
	@scripts/make-venv $(PYTHON) $(VENV) '.[skip-psk]' $(OUT) || echo "sslpsk3 cannot be built (a C compiler, the headers \
	of Python and OpenSSL): tests of TLS with a PSK are skipped" $(OUT)
	@touch $@ $(VENV)/.installed

demo-tools:
	@scripts/need-tools "$(DEMO_TOOLS)" ip iperf3 wg $(OUT)

test-tools:
	@scripts/need-tools "$(TEST_TOOLS) chromium zsh fish mandoc groff-base" ip iperf3 ping wg wireguard-go tcpdump ethtool nft mosquitto \
	chromium zsh fish mandoc groff $(OUT)
	@scripts/need-promtool $(TOOLS)/promtool $(OUT)
	@scripts/need-axe $(TOOLS)/axe $(OUT)

bench-tools:
	@scripts/need-tools "$(BENCH_TOOLS)" ip iperf3 ethtool nft wireguard-go $(OUT)

kernel-tools:
	@scripts/need-tools "$(KERNEL_TOOLS)" qemu-system-x86_64 busybox ip ping wg wireguard-go $(OUT)

# liboqs for the tests of its KEMs, a few minutes once, where there are cargo, cmake and a C compiler
liboqs:
	@tests/support/build_liboqs $(TOOLS)/liboqs $(OUT)

demo: venv demo-tools
	@$(BIN)/qtunnel demo $(ARGS)

# the scenario gallery, two at a time, in some five minutes; ARGS="darpa micius" are some of them
scenarios: dev demo-tools
	@$(BIN)/python scripts/run-scenarios $(ARGS)

# the whole suite, some 12 minutes on two cores; ARGS="tests/rekey -k name" is a part of it
test: dev test-tools lint liboqs
ifeq ($(strip $(ARGS)),)
	@scripts/run-tests $(BIN)/pytest
else
	$(BIN)/pytest $(ARGS)
endif

# every fault under load, a quarter of an hour, and the table of what came of it: also into docs/reliability.md.
# ARGS="link cut,disk" tries those with one of these words, and leaves the other rows as they are; ENGINE=wireguard-go
# those that another engine can pass, with it at both ends, and ENGINE=wireguard-go,qtunnel at alice's alone, with the newest
# one where scripts/build-wireguard-go .tools has made it
test-faults: dev test-tools
	@PATH="$(CURDIR)/$(TOOLS):$$PATH" ENGINE=$(ENGINE) $(BIN)/python -m tests.faults $(ARGS)

# two gateways under load, with a rekey a second and a random fault every half a minute, for MINUTES; what of it is to be
# plotted goes into SOAK_RECORD. ARGS="--seed 7 --faults 20" are other ones, and fewer
MINUTES ?= 60
SOAK_RECORD ?= $(TOOLS)/soak.jsonl
soak: dev test-tools
	@mkdir -p $(dir $(SOAK_RECORD))
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) --into $(SOAK_RECORD) $(ARGS)

# engine: kernel, against this machine's kernel or, where that has no WireGuard, Debian's in a virtual machine: within half
# an hour without help of the processor (KVM); KERNEL_VM_LIMIT=seconds is another bound. KERNEL=user-mode: in a user-mode
# Linux, which is built of Debian's source the first time, and takes seven minutes then
test-kernel: dev kernel-tools
	@[ "$(KERNEL)" != user-mode ] || scripts/need-tools "build-essential flex bison bc" cc flex bison bc $(OUT)
	KERNEL=$(KERNEL) scripts/test-kernel $(BIN)/python $(TOOLS)/kernel $(ARGS)

# the tests without root on the oldest versions that pyproject.toml allows, and on each Python from 3.11 on that can be had
# here; a quarter of an hour each. ARGS="tests/handshake tests/keys -n 2" are some of them; PYTHONS="3.13" is one of those
SUPPLY := $(TOOLS)/supply
test-minimum: dev test-tools
	@scripts/need-supply $(PYTHON) $(SUPPLY) $(OUT)
	scripts/test-minimum $(SUPPLY)/bin/uv $(PYTHON) $(TOOLS)/minimum $(ARGS)

test-pythons: dev test-tools
	@scripts/need-supply $(PYTHON) $(SUPPLY) $(OUT)
	scripts/test-pythons $(SUPPLY)/bin/uv $(TOOLS) $(ARGS)

# requirements.lock and requirements-build.lock anew; ARGS=--upgrade takes the newest versions of everything
lock:
	@scripts/need-supply $(PYTHON) $(SUPPLY) $(OUT)
	scripts/make-lock $(SUPPLY)/bin/uv $(ARGS)

# known vulnerabilities of what the locks name; exit code 3 where nobody could be asked
audit-deps:
	@scripts/need-supply $(PYTHON) $(SUPPLY) $(OUT)
	scripts/audit-deps $(SUPPLY)/bin/pip-audit requirements.lock requirements-build.lock

# a wheel, in $(DEB), the same bytes wherever it is made; and a bill of materials of it and of what it needs
wheel:
	@scripts/make-wheel $(PYTHON) $(DEB) $(TOOLS)/wheel

sbom:
	@scripts/need-supply $(PYTHON) $(SUPPLY) $(OUT)
	@set -e; wheel=$$(scripts/make-wheel $(PYTHON) $(DEB) $(TOOLS)/wheel); \
	scripts/make-sbom $(PYTHON) $(SUPPLY)/bin/cyclonedx-py "$$wheel" "$${wheel%-py3-none-any.whl}.cdx.json" $(OUT); \
	echo "$${wheel%-py3-none-any.whl}.cdx.json"

# a Debian package in $(DEB), for Debian's own Python on this machine; as root, or with fakeroot
DEB := dist
deb:
	@scripts/make-deb python3 $(DEB)

# manual pages of all commands and of the configuration, in $(MAN); make install and make deb put them in place by themselves
MAN := dist/man
man: venv
	@$(BIN)/python -m qtunnel.manual $(MAN)

# that package in a booted systemd: a Debian of its own (debootstrap, once) in a container that forgets everything; as root
test-systemd: dev
	@scripts/need-tools "$(SYSTEMD_TOOLS)" systemd-nspawn debootstrap $(OUT)
	scripts/test-systemd $(BIN)/python $(TOOLS)/systemd $(ARGS)

# the Linux kernel's own network test of WireGuard against our engine, 3 to 5 minutes; needs root and Debian's sources
test-netns: venv
	@scripts/need-tools "$(NETNS_TOOLS)" ip iptables ping iperf3 ncat wg xz $(OUT)
	scripts/test-netns $(TOOLS)/netns "$(abspath $(BIN))/qtunnel" wg

# the whole convergence simulation, within two hours: 1,000 rekeys for each of 100 seeds (the tests run 20 for each),
# and a hub of 1,000 peers (the tests run 200);
# SIM_SEEDS=10 is a tenth of it, and ARGS="-n auto" uses all processors
SIM_REKEYS ?= 1000
SIM_SEEDS  ?= 100
sim: dev
	QTUNNEL_SIM_REKEYS=$(SIM_REKEYS) QTUNNEL_SIM_SEEDS=$(SIM_SEEDS) timeout 2h \
		$(BIN)/pytest tests/rekey/test_convergence.py --timeout=600 $(ARGS)
	QTUNNEL_SIM_PEERS=1000 timeout 1h $(BIN)/pytest tests/rekey/test_crowd.py $(ARGS)

# the rekeying core's model (tests/rekey/model) under other and more plans than the tests have; each number from SOAK_SEED
# on is 50 plans, and repeats itself. ARGS="-n auto" uses all processors; 10,000 plans take a core some 20 minutes
SOAK_RUNS ?= 10000
SOAK_SEED ?= 1000
model-plans: dev
	QTUNNEL_SOAK_RUNS=$(SOAK_RUNS) QTUNNEL_SOAK_SEED=$(SOAK_SEED) \
		$(BIN)/pytest tests/rekey/model/test_model.py --timeout=3600 $(ARGS)

# all targets of tests/fuzz under atheris, SECONDS each, side by side: at 60 half an hour on two cores. ARGS="uapi audit.log"
# are some of them; corpora, findings and runs.jsonl go to FUZZ_DIR
SECONDS  ?= 60
FUZZ_DIR ?= .fuzz
fuzz: dev
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/pip install --quiet -e '.[fuzz]' $(OUT)
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --directory $(FUZZ_DIR) $(ARGS)

# cores broken on purpose, each of which the model has to find; ARGS="3 7" are some of them
mutants: dev
	@$(BIN)/python -m tests.rekey.model.mutants $(ARGS)

# the code of a room changed in every place that mutmut knows to change, under the room's tests: an hour and more for all of
# them; what lives has to be explained in tests/mutation/explained.toml. ARGS="handshake keys/chain.py" are rooms and files
mutation: dev
	@$(BIN)/python -m tests.mutation $(ARGS)

# the whole suite, measured, processes that it starts included: an hour, as root. Fails where a room is below its bound, and
# writes the table in docs/reliability.md. ARGS=unit is what needs no root, and the rooms that it suffices for;
# ARGS="tests/keys" measures what these tests run, without bounds
coverage: dev test-tools
	@$(BIN)/python -m tests.coverage $(ARGS)

# 10,000 rekeys at 20 a second with a tenth of the datagrams lost: in virtual time, and as root over real sockets, which
# takes nine minutes
REKEYS ?= 10000
rekeys: dev test-tools
	QTUNNEL_REKEYS=$(REKEYS) $(BIN)/pytest -s tests/rekey/test_many_rekeys.py --timeout=3600 $(ARGS)

# both KMEs are silent for 60 rekeys, which keys agreed ahead carry: as root, five minutes
OUTAGE_REKEYS ?= 60
outage: dev test-tools
	QTUNNEL_OUTAGE_REKEYS=$(OUTAGE_REKEYS) $(BIN)/pytest -s tests/daemon/test_reservoir_run.py --timeout=900 $(ARGS)

# pictures of the page for docs/operations.md, as Chromium draws it, of a gateway that is made up
page-pictures: dev test-tools
	@$(BIN)/python -m tests.page.sample docs

# how long a gateway works on first messages that prove nothing, by what is wrong with them (docs/threat-model.md)
timing: dev
	@$(BIN)/python -m tests.rekey.outside $(ARGS)

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the claims about the handshake (docs/formal), by ProVerif where it is installed and by the solver of tests/formal: half an
# hour; ARGS="secrecy_kem downgrade" are some of the models
formal: dev
	@$(BIN)/python -m tests.formal $(ARGS)

# The generated parts of docs/architecture.md
diagrams: dev
	@$(BIN)/python -m tests.architecture $(OUT)

# against the newest wireguard-go in both modes, and what a rekey costs; ARGS go to the races: make bench ARGS="--seconds 10"
bench: venv bench-tools
	@set -e; rival=$$(scripts/build-wireguard-go $(TOOLS)); \
	$(BIN)/qtunnel bench tunnel --against "$$rival" $(ARGS); \
	for suite in chacha20-poly1305 aes-256-gcm; do \
		$(BIN)/qtunnel bench tunnel --against "$$rival" --mode record --suite $$suite $(ARGS); \
	done; \
	$(BIN)/qtunnel bench rekey

# what docs/performance.md plots: half an hour on a quiet machine; then the plots, also that of the newest `make soak`
RESULTS := benchmarks/results
sweep: venv bench-tools
	@set -e; rival=$$(scripts/build-wireguard-go $(TOOLS)); scripts/bench-sweep $(BIN)/qtunnel "$$rival" $(RESULTS)

plots: venv
	@$(BIN)/pip install --quiet '.[plots]' $(OUT)
	@$(BIN)/python scripts/plot-performance $(RESULTS) docs/plots
	@if [ -e $(SOAK_RECORD) ]; then $(BIN)/python scripts/plot-soak $(SOAK_RECORD) docs/plots; fi

# as a service: the program in a virtual environment of its own that nobody's checkout changes, a link to it, the unit.
# APP_DIR has to be its own, for it is removed as a whole; DESTDIR is put in front of all paths
APP_DIR ?= /opt/qtunnel
LINK    ?= /usr/bin/qtunnel
UNITS   ?= /etc/systemd/system
ETC     ?= /etc/qtunnel
SHARE   ?= /usr/local/share
DESTDIR ?=
install:
	@scripts/install-service "$(PYTHON)" "$(DESTDIR)" "$(APP_DIR)" "$(LINK)" "$(UNITS)" "$(ETC)" "$(SHARE)" $(OUT)

# all but /etc/qtunnel and /var/lib/qtunnel, which hold identities and state
uninstall:
	@scripts/uninstall-service "$(DESTDIR)" "$(APP_DIR)" "$(LINK)" "$(UNITS)" $(OUT)

clean:
	rm -rf $(VENV) $(TOOLS) .coverage-data .mutation .fuzz build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
