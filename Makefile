# Everything a newcomer or CI needs. ARGS passes options on: make demo ARGS="--seconds 30 --json"
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=
DEMO_TOOLS := iproute2 iperf3 wireguard-tools
TEST_TOOLS := $(DEMO_TOOLS) iputils-ping wireguard-go tcpdump
OUT    := >&2

.PHONY: venv dev demo-tools test-tools demo test lint diagrams clean

venv: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml
	@scripts/make-venv $(PYTHON) $(VENV) . $(OUT)
	@touch $@

dev: $(VENV)/.dev
$(VENV)/.dev: pyproject.toml
	@scripts/make-venv $(PYTHON) $(VENV) '.[dev]' $(OUT)
	@touch $@ $(VENV)/.installed

demo-tools:
	@scripts/need-tools "$(DEMO_TOOLS)" ip iperf3 wg $(OUT)

test-tools:
	@scripts/need-tools "$(TEST_TOOLS)" ip iperf3 ping wg wireguard-go tcpdump $(OUT)

demo: venv demo-tools
	@$(BIN)/qtunnel demo $(ARGS)

test: dev test-tools lint
	$(BIN)/pytest $(ARGS)

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The generated parts of docs/architecture.md
diagrams: dev
	@$(BIN)/python -m tests.architecture $(OUT)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
