# Everything for development. Needs Python 3.11 or newer, pip and make; each target makes what it needs.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
            $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TORCH  := $(shell sed -n 's/^torch==/torch==/p' constraints/dev.txt)
# The newest Python there is, for the newest releases: pandas and scanpy drop the older ones first.
NEWEST ?= $(shell for p in python3.14 python3.13 python3.12 python3 python3.11; do \
            $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && echo $$p && break; done)
# The other Pythons that celbo promises; pyenv's are found without being chosen there.
python_of = $(shell for p in python$(1) $$HOME/.pyenv/versions/$(1).*/bin/python; do \
              $$p -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(1)")' 2>/dev/null && echo $$p && break; done)
PYTHONS ?= 3.11 3.12 3.13
BIN    := .venv/bin
TESTS  ?= tests
JOBS   ?= 2
DEMO   ?= demo
# New releases tell each other what they deprecate: no news of ours, where `make test` takes every warning for an error.
DEPRECATED := -W ignore::DeprecationWarning -W ignore::FutureWarning -W ignore::PendingDeprecationWarning
NEWEST_TESTS ?= tests/test_pipeline.py tests/test_results.py tests/test_files.py tests/data tests/embed tests/cli \
                tests/training tests/models/test_scvi.py tests/models/test_store.py tests/plots tests/report
# Every room once, in minutes: what another Python or an older release is likely to break.
PLATFORM_TESTS ?= tests/test_public_api.py tests/test_files.py tests/data tests/training tests/models/test_scvi.py \
                  tests/models/test_store.py tests/cli/test_app.py tests/test_results.py
# One thread a worker: the tests are many small problems, and two thread pools on few cores only wait for each other.
THREADS := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help venv venv-newest venv-oldest demo lecture test test-slow test-newest test-oldest test-pythons test-hashes nightly kill lint bench bench-de bench-elbo bench-full venv-peer golden freeze fuzz

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

venv: .venv/.done  ## Make .venv with everything for development

demo: .venv/.done  ## Run the main job on the real cells that ship with a dependency; writes demo/report.html
	$(BIN)/celbo demo --out $(DEMO)

lecture: .venv/.done  ## Draw docs/lecture.md and its pictures: every method on the same cells (minutes)
	$(BIN)/python tools/draw_lecture.py

test: .venv/.done  ## Pass the tests (minutes)
	$(THREADS) $(BIN)/python -m pytest -q -m "not slow and not gpu" -n $(JOBS) --dist worksteal $(TESTS)

test-slow: .venv/.done  ## Pass the long tests, and those of test-newest (over an hour)
	$(BIN)/python -m pytest -q -m "slow and not gpu" $(TESTS)
	$(MAKE) test-newest

test-newest: .venv-newest/.done  ## Pass the main job, at 9,000 cells too, with the newest releases of everything but torch
	.venv-newest/bin/python tools/differing.py constraints/dev.txt
	.venv-newest/bin/python -m pip check
	$(THREADS) .venv-newest/bin/python -m pytest -q $(DEPRECATED) -m "not gpu" -n $(JOBS) --dist worksteal $(NEWEST_TESTS)

test-oldest: .venv-oldest/.done  ## Pass tests of every room with the oldest releases that pyproject.toml allows
	.venv-oldest/bin/python tools/differing.py constraints/dev.txt
	.venv-oldest/bin/python -m pip check
	$(THREADS) .venv-oldest/bin/python -m pytest -q $(DEPRECATED) -m "not gpu and not slow" -n $(JOBS) --dist worksteal $(PLATFORM_TESTS)

test-pythons: $(PYTHONS:%=.venv-py%/.passed)  ## Pass tests of every room on each Python of PYTHONS; one alone: make test-pythons PYTHONS=3.13

test-hashes: .venv/.done  ## Compare what the index gives with constraints/hashes.txt: nothing is installed
	$(BIN)/python tools/hashes.py constraints/hashes.txt --check

nightly: test-slow test-oldest test-pythons test-hashes  ## All that takes too long for each change (hours)

kill: .venv/.done  ## Kill train, run, compare and de 1,000 times and look whether anything is lost (hours)
	$(BIN)/python tools/kill.py --times 1000

lint: .venv/.done  ## Style, types and the import order of the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

bench: .venv/.done venv-peer  ## Measure speed and memory beside scvi-tools, and the floor; under 30 minutes
	$(BIN)/python benchmarks/roofline.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/plot.py
	$(BIN)/python benchmarks/targets.py

bench-de: .venv/.done venv-peer  ## Calibration, power and speed of differential expression beside scvi-tools (hours; resumable)
	$(BIN)/python benchmarks/differential_speed.py
	$(BIN)/python benchmarks/differential.py planted samples nulls truth seeds summary

bench-elbo: .venv/.done venv-peer  ## Compare held-out ELBOs under one plan with scvi-tools (hours)
	$(BIN)/python benchmarks/elbo_parity.py

bench-full: .venv/.done venv-peer  ## The long grid and the time to quality on real sets (many hours; resumable)
	$(BIN)/python benchmarks/speed.py --grid --rounds 3
	$(BIN)/python benchmarks/time_to_quality.py
	$(BIN)/python benchmarks/plot.py
	$(BIN)/python benchmarks/targets.py

venv-oldest: .venv-oldest/.done  ## Make .venv-oldest with the oldest releases that are allowed; torch stays the pinned one

fuzz: .venv/.done  ## Damage 640 files of each of 16 kinds and tell what came of each (over an hour)
	$(THREADS) $(BIN)/python tools/fuzz.py --trials 640 --json fuzz.json --keep fuzz_finds

venv-newest: .venv-newest/.done  ## Make .venv-newest with what `pip install .` finds today

venv-peer: .venv-peer/.done  ## Make .venv-peer with scvi-tools, for comparisons only

golden: .venv-peer/.done  ## Draw the golden files of the parity test anew
	.venv-peer/bin/python tools/make_golden.py tests/models/golden

freeze: .venv/.done  ## Write the versions in .venv to constraints/dev.txt, and the hashes of their files
	$(BIN)/python tools/freeze.py $(BIN)/python constraints/dev.txt
	$(BIN)/python tools/hashes.py constraints/hashes.txt

# torch first and pinned, so that nothing later picks another build of it.
.venv/.done: pyproject.toml constraints/dev.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found; say where one is: make $(MAKECMDGOALS) PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints/dev.txt --editable ".[dev]"
	$(BIN)/python -m pip check
	touch $@

# torch 2.10 is allowed but not tried here: its other builds are gigabytes, and a machine often has a local one.
.venv-oldest/.done: pyproject.toml constraints/dev.txt tools/oldest.py
	@test -n "$(call python_of,3.11)" || { echo "No Python 3.11 found: the oldest releases have wheels for it" >&2; exit 1; }
	test -x .venv-oldest/bin/python || $(call python_of,3.11) -m venv .venv-oldest
	.venv-oldest/bin/python tools/oldest.py $(TORCH) > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet $(TORCH) --constraint .venv-oldest/constraints.txt --editable ".[all]" \
	  pytest pytest-xdist hypothesis mpmath
	touch $@

.PRECIOUS: .venv-py%/.done
.venv-py%/.done: pyproject.toml constraints/dev.txt
	@test -n "$(call python_of,$*)" || { echo "No Python $* found" >&2; exit 1; }
	test -x .venv-py$*/bin/python || $(call python_of,$*) -m venv .venv-py$*
	.venv-py$*/bin/python -m pip install --quiet $(TORCH)
	.venv-py$*/bin/python -m pip install --quiet --constraint constraints/dev.txt --editable ".[all]" \
	  pytest pytest-xdist hypothesis mpmath
	touch $@

.venv-py%/.passed: .venv-py%/.done
	.venv-py$*/bin/python -m pip check
	$(THREADS) .venv-py$*/bin/python -m pytest -q $(DEPRECATED) -m "not gpu and not slow" -n $(JOBS) --dist worksteal $(PLATFORM_TESTS)

# Without constraints, and made anew when asked (rm -r .venv-newest): a release of tomorrow is what it is for.
.venv-newest/.done: pyproject.toml constraints/dev.txt
	@test -n "$(NEWEST)" || { echo "No Python 3.11 or newer found; say where one is: make $(MAKECMDGOALS) NEWEST=..." >&2; exit 1; }
	test -x .venv-newest/bin/python || $(NEWEST) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet $(TORCH)
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager $(TORCH) --editable ".[all]" \
	  pytest pytest-xdist hypothesis mpmath
	touch $@

.venv-peer/.done: constraints/peer.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found; say where one is: make $(MAKECMDGOALS) PYTHON=..." >&2; exit 1; }
	test -x .venv-peer/bin/python || $(PYTHON) -m venv .venv-peer
	.venv-peer/bin/python -m pip install --quiet $(TORCH)
	.venv-peer/bin/python -m pip install --quiet --constraint constraints/peer.txt scvi-tools scikit-misc safetensors
	touch $@
