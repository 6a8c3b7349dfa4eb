# Everything on a fresh machine: each target makes the environment it needs first. CPython 3.10 or newer, pip and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
ifdef CI  # a library's new warning fails the checks of this repository, and never a user's run
STRICT := -W error -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning -W ignore::FutureWarning \
  -W always::mcdo.errors.UnwrittenWarning -W always::mcdo.errors.LookAlikeWarning -W always::mcdo.store.StoreWarning
endif

.PHONY: gate experiments replicates replicates-softmax replicates-sigmoid studies perf curves test slow faults cluster browser screenshots lint models recipes env clean

gate: env  ## Phase 1 at the published sizes on two embedded encoders: ends with GO or NO-GO
	$(PYTEST) tests/experiments tests/gates -m phase1 --junitxml=reports/phase1/junit.xml

experiments: env  ## Phases 1-4 and the preliminary investigation at the full sizes, then docs/findings.md and the page
	$(PYTEST) tests/experiments tests/gates -m "phase1 or prelim or phase2 or phase3 or phase4 or rivals or recipe" --estimator=both \
	  --junitxml=reports/experiments.xml
	$(PYTEST) tests/experiments/rivals -m rivals --force --models=clip_tiny_sigmoid,siglip_tiny_softmax --junitxml=reports/rivals.xml
	$(BIN)/mcdo findings
	$(BIN)/mcdo report --out reports/report.html

replicates: env  ## five trainings of each embedded encoder, and whether loss, tower or site outlast them
	$(MAKE) --no-print-directory -j2 replicates-softmax replicates-sigmoid
	$(PYTEST) tests/experiments/prelim/test_prelim_replicates.py --replicates=reports/trainings

REPLICATES := $(BIN)/python -m mcdo.encoders.train --out reports/trainings --seeds 1 2 3 4 5 --keys

replicates-softmax: env  # one process on each of two cores; what is trained already is left
	$(REPLICATES) clip_tiny siglip_tiny_softmax

replicates-sigmoid: env
	$(REPLICATES) siglip_tiny clip_tiny_sigmoid

studies: env  ## the three neighbouring studies at their full embedded sizes
	$(PYTEST) tests/experiments/studies -m "subtasks or backbones or connector" --junitxml=reports/studies.xml

perf: env  ## costs of a pass, reliability against cost, the store; alone on the machine, please
	$(PYTEST) tests/perf --benchmark --models=clip_tiny,clip_tiny_sigmoid,siglip_tiny_softmax,siglip_tiny,clip_b32 \
	  --random-weights=clip_b32 --junitxml=reports/perf/junit.xml --benchmark-json=reports/perf/benchmark.json

curves: env  ## reliability against cost alone, with up to 64 passes
	$(PYTEST) tests/perf/test_perf_passes.py -k reliability --benchmark --models=clip_tiny,clip_tiny_sigmoid,siglip_tiny_softmax,siglip_tiny \
	  --passes=64 --junitxml=reports/perf/curves.xml

# Four processes of one thread on two cores, so that none is idle while one waits; what one compiles no other need compile.
PARTS := test-experiments test-numbers test-rooms test-rest
.PHONY: $(PARTS)
$(PARTS): export OMP_NUM_THREADS := 1
unexport PYTHONDONTWRITEBYTECODE

QUICK := $(PYTEST) $(STRICT) -m "not slow" --protocol quick --store temporary --no-figures
NUMBERS := tests/calibration $(addprefix tests/unit/,estimators perturbation stats)
ROOMS := $(addprefix tests/unit/,cli encoders experiments images recipes report rivals)

test: env  ## the test suite, with every experiment and study at its quick sizes, on two cores
	rm -rf reports/quick reports/quick-*  # feature files of another commit are refused
	$(MAKE) --no-print-directory -j4 $(PARTS)

test-experiments: env  # one process, since phases 2-4 want the verdict of phase 1
	$(QUICK) --reports reports/quick tests/experiments tests/gates

test-numbers: env
	$(QUICK) --reports reports/quick-numbers $(NUMBERS)

test-rooms: env
	$(QUICK) --reports reports/quick-rooms $(ROOMS)

test-rest: env  # all that needs processes of its own: one server of them
	$(QUICK) --reports reports/quick-rest tests $(addprefix --ignore=,tests/experiments tests/gates $(NUMBERS) $(ROOMS))

slow: env  ## what takes minutes: real architectures with random weights, the second encoder, the coverage of every interval
	$(PYTEST) -m "slow and not faults" --force --protocol quick --store temporary --reports reports/quick

faults: env  ## killed processes, damaged files, hostile inputs: what was injected and what held goes to docs/faults.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[frames]"
	$(BIN)/python tests/faults/faults_page.py

cluster: env  ## an array on a real SLURM of two nodes, with kills; installs Debian's slurm-wlm and munge, so as root
	command -v slurmctld >/dev/null || (apt-get update && apt-get install --yes --no-install-recommends slurm-wlm munge)
	$(PYTEST) tests/cluster -m cluster --store temporary --reports reports/quick

browser: env  ## the page in a real browser; needs Chromium, as Debian's package of that name
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[browser]"
	$(PYTEST) tests/unit/report -m browser --store temporary --reports reports/quick

screenshots: env  ## docs/figures/report*.png, of the page of what stands in reports/; needs Chromium
	$(BIN)/mcdo report --out reports/report.html
	cd docs/figures && for name in report report-400; do chromium --headless --no-sandbox --hide-scrollbars \
	  --window-size=$$(test $$name = report && echo 1400 || echo 400),1600 --screenshot=$$name.png file://$(CURDIR)/reports/report.html; done

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

models: env  ## train the embedded encoders anew
	$(BIN)/python -m mcdo.encoders.train

recipes: env  ## choose and calibrate the recipes anew that ship with the embedded encoders
	$(PYTEST) tests/experiments/recipe -m recipe --force --models=clip_tiny,siglip_tiny,clip_tiny_sigmoid,siglip_tiny_softmax || test $$? = 1  # an unmet claim
	$(BIN)/python -m mcdo.recipes.default reports/recipe/recipe_search

env: $(VENV)/.test

$(VENV)/.test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.test

clean:
	rm -rf $(VENV) reports store
