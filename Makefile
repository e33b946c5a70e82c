# Everything for development. Needs Python 3.11 or newer, pip and make; each target makes what it needs.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
            $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TORCH  := $(shell sed -n 's/^torch==/torch==/p' constraints/dev.txt)
# The newest Python there is, for the newest releases: pandas and scanpy drop the older ones first.
NEWEST ?= $(shell for p in python3.14 python3.13 python3.12 python3 python3.11; do \
            $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && echo $$p && break; done)
BIN    := .venv/bin
TESTS  ?= tests
JOBS   ?= 2
DEMO   ?= demo
# New releases tell each other what they deprecate: no news of ours, where `make test` takes every warning for an error.
DEPRECATED := -W ignore::DeprecationWarning -W ignore::FutureWarning -W ignore::PendingDeprecationWarning
NEWEST_TESTS ?= tests/test_pipeline.py tests/test_results.py tests/test_files.py tests/data tests/embed tests/cli \
                tests/training tests/models/test_scvi.py tests/models/test_store.py tests/plots tests/report
# One thread a worker: the tests are many small problems, and two thread pools on few cores only wait for each other.
THREADS := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help venv venv-newest demo lecture test test-slow test-newest lint bench bench-de bench-elbo bench-full venv-peer golden freeze

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

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
	$(THREADS) .venv-newest/bin/python -m pytest -q $(DEPRECATED) -m "not gpu" -n $(JOBS) --dist worksteal $(NEWEST_TESTS)

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

venv-newest: .venv-newest/.done  ## Make .venv-newest with what `pip install .` finds today

venv-peer: .venv-peer/.done  ## Make .venv-peer with scvi-tools, for comparisons only

golden: .venv-peer/.done  ## Draw the golden files of the parity test anew
	.venv-peer/bin/python tools/make_golden.py tests/models/golden

freeze: .venv/.done  ## Write the versions in .venv to constraints/dev.txt
	$(BIN)/python tools/freeze.py $(BIN)/python constraints/dev.txt

# torch first and pinned, so that nothing later picks another build of it.
.venv/.done: pyproject.toml constraints/dev.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found; say where one is: make $(MAKECMDGOALS) PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints/dev.txt --editable ".[dev]"
	touch $@

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
