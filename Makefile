# Each target creates what it needs in .venv; `make search` is the whole product on this machine.
#
#   make search            search on this computer through a real RPC tracker: minutes, no data, no device
#   make test              every test except those marked slow: minutes; on two processors, then what measures time alone
#   make test-all          every test, the slow ones included
#   make lint              formatting, lint, types, import layers
#   make arm-tools         with apt, an ARM emulator and cross compiler; without them the tests of ARM code are skipped
#   make browser           with apt, a browser; without it the tests of a report's page in one are skipped
#   make bench             the scripts behind the README's figures, hours; BENCHMARKS=benchmarks/rivals.py: one of them
#   make audit             the pinned dependencies against the advisories of today, from the internet
#   make docs              the documentation as a site, in site/index.html
#   make wheel             a wheel in dist/, tried in a fresh environment outside the checkout
#   make clean             remove .venv, caches and builds; runs/ and your records stay
#
# Variables: PYTHON (3.11 or newer), ARGS (make search ARGS='--trials 50', make test ARGS=tests/space),
# TORCH_INDEX (empty: pip's own index only).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
ARGS ?=
# PyPI's torch for Linux brings gigabytes of CUDA libraries; this index has the CPU build.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := .venv/.installed
INSTALLED_DEV := .venv/.installed-dev
INSTALLED_BENCH := .venv/.installed-bench
INSTALLED_DOCS := .venv/.installed-docs
ARM_PACKAGES := qemu-user gcc-aarch64-linux-gnu libstdc++6-arm64-cross libgcc-s1-arm64-cross libc6-dev-arm64-cross \
	binutils-arm-linux-gnueabihf
# What an installation took; each target counts its own seconds.
REPORT = echo "installed in $$SECONDS s, $$(du -sm .venv | cut -f1) MB"
# Sets the shell's `index` to pip's options for the CPU build of torch, where it is wanted and the index answers.
define CHOOSE_TORCH_INDEX
index=()
if [[ -n "$(TORCH_INDEX)" ]] && ! command -v nvidia-smi >/dev/null \
  && $(BIN)/python -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=5)' \
    "$(TORCH_INDEX)" 2>/dev/null; then
  index=(--extra-index-url "$(TORCH_INDEX)")
fi
endef
BENCHMARKS ?= $(wildcard benchmarks/*.py)

.PHONY: help search test test-all lint arm-tools browser bench audit docs wheel clean

help:
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile

search: $(INSTALLED)
	$(BIN)/tvm-mnas search $(ARGS)

# Files are begun in the order of conftest.py. Three for two processors: a third of its time a test waits for others.
SIDE_BY_SIDE := -n 3 --dist loadfile --no-loadscope-reorder

# Without paths of your own, only these are looked through: collecting all tests takes ten seconds.
TIMED = $(if $(ARGS),,$(shell grep -rl --include='test_*.py' pytest.mark.timed tests))

# What measures time runs alone, after the others, which share the processors. pytest ends with 5 where it finds
# no test, which ARGS may be the reason for in one of the two runs.
define RUN_TESTS
@found=
run() {
  echo "== pytest $$*"
  local status=0
  $(BIN)/python -m pytest "$$@" $(ARGS) || status=$$?
  if [[ $$status -eq 5 ]]; then return 0; fi
  found=yes
  return $$status
}
endef

test: $(INSTALLED_DEV)
	$(RUN_TESTS)
	run $(SIDE_BY_SIDE) -m "not slow and not timed"
	run -m "timed and not slow" $(TIMED)
	[[ $$found ]] || exit 5

test-all: $(INSTALLED_DEV)
	$(RUN_TESTS)
	run $(SIDE_BY_SIDE) -m "not timed"
	run -m timed $(TIMED)
	[[ $$found ]] || exit 5

lint: $(INSTALLED_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -n 2 & types=$$!
	$(BIN)/lint-imports
	wait $$types

browser:
	@if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null; then
	  if [[ $$(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
	    echo "not installed: as root, apt-get install chromium"
	    exit 0
	  fi
	  apt-get update -qq
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null
	fi

arm-tools:
	@if ! command -v qemu-aarch64 >/dev/null || ! command -v aarch64-linux-gnu-gcc >/dev/null \
	    || ! command -v arm-linux-gnueabihf-ld >/dev/null; then
	  if [[ $$(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
	    echo "not installed: as root, apt-get install $(ARM_PACKAGES)"
	    exit 0
	  fi
	  apt-get update -qq
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(ARM_PACKAGES) >/dev/null
	fi

bench: $(INSTALLED_BENCH)
	for script in $(BENCHMARKS); do
	  echo "== $$script"
	  $(BIN)/python "$$script"
	done

# In an environment of its own: what it needs is nothing that we pin.
audit:
	@away=$$(mktemp -d)
	trap 'rm -rf "$$away"' EXIT
	$(PYTHON) -m venv "$$away"
	"$$away/bin/python" -m pip --disable-pip-version-check install --quiet 'pip-audit>=2.10,<3'
	"$$away/bin/pip-audit" --no-deps --disable-pip --requirement constraints.txt

docs: $(INSTALLED_DOCS)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	echo site/index.html

# From the source distribution, which leaves out the records of your own searches.
wheel: $(INSTALLED_DEV)
	@rm -rf dist
	$(BIN)/python -m build --no-isolation >/dev/null
	$(CHOOSE_TORCH_INDEX)
	checkout=$$PWD
	away=$$(mktemp -d)
	trap 'rm -rf "$$away"' EXIT
	$(PYTHON) -m venv "$$away/venv"
	cd "$$away"
	unset PYTHONPATH
	pip=(venv/bin/python -m pip --disable-pip-version-check)
	echo "installing the wheel into a fresh environment"
	"$${pip[@]}" install -qq -c "$$checkout/constraints.txt" "$${index[@]}" torch
	"$${pip[@]}" install -qq -c "$$checkout/constraints.txt" "$$checkout"/dist/*.whl
	"$${pip[@]}" check
	venv/bin/tvm-mnas --version
	venv/bin/tvm-mnas space show quickstart >/dev/null
	venv/bin/tvm-mnas search --trials 2 --batch 2 --train-steps 2 --final-steps 2 --finalists 1 --schedules-per-kernel 2 \
	  --allow-untuned 99% --run run --records records
	ls "$$checkout"/dist/*

clean:
	rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	  echo "tvm-mnas needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2
	  exit 1
	}
	$(PYTHON) -m venv .venv || {
	  rm -rf .venv
	  echo "$(PYTHON) cannot create virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2
	  exit 1
	}

# torch goes first and alone, so that its index is asked for nothing but torch and what torch needs.
$(INSTALLED): .venv/pyvenv.cfg pyproject.toml constraints.txt
	@$(CHOOSE_TORCH_INDEX)
	echo "installing into .venv: about 1 GB to fetch the first time, a few minutes"
	SECONDS=0
	# An older .venv may have xgboost, whose files xgboost-cpu overwrites and a later removal would take away.
	$(PIP) uninstall -qq -y xgboost 2>/dev/null
	$(PIP) install -qq -c constraints.txt "$${index[@]}" torch
	$(PIP) install -qq -c constraints.txt -e .
	touch $@
	$(REPORT)

$(INSTALLED_DEV): $(INSTALLED)
	@echo "installing the tools for checks"
	SECONDS=0
	$(PIP) install -qq -c constraints.txt -e ".[dev]"
	touch $@
	$(REPORT)

$(INSTALLED_BENCH): $(INSTALLED)
	@echo "installing the engines to compare with"
	SECONDS=0
	$(PIP) install -qq -c constraints.txt -e ".[bench]"
	touch $@
	$(REPORT)

# The sources are read, not imported: torch and TVM need not be there.
$(INSTALLED_DOCS): .venv/pyvenv.cfg pyproject.toml constraints.txt
	@echo "installing what builds the documentation"
	SECONDS=0
	packages=$$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	$(PIP) install -qq -c constraints.txt $$packages
	touch $@
	$(REPORT)
