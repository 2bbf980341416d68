# Each target creates the environment that it needs; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OLDEST := $(VENV)-oldest
TOOLS := $(VENV)-release

# What pip installs is what was tested, byte for byte; the project itself needs nothing else.
# Modules are compiled when they are first imported: most never are.
HASHED := -m pip install --quiet --no-compile --require-hashes --requirement
ITSELF := -m pip install --quiet --no-deps --no-build-isolation --editable .

# glibc keeps what is freed: times without page faults (benchmarks/report.py)
KEEPING := MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=68719476736

# Tests of a file run in one process, which makes what they share once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadscope

.PHONY: demo test test-slow test-all test-network test-oldest fuzz lint bench bench-gpu docs requirements audit release clean

demo: $(INSTALLED)  ## train a network and its SE twin on digits, then fine-tune one to pictures (two minutes)
	$(BIN)/senet demo

test: $(INSTALLED)  ## run the quick tests, a process per core (about 12 minutes on two cores)
	$(PYTEST)

test-slow: $(INSTALLED)  ## run what `make test` leaves out: deep networks, compilers, several processes
	$(PYTEST) -m "slow and not network"

test-all: test test-slow  ## run every test that needs no network, each once

test-network: $(INSTALLED)  ## run the tests that ask huggingface.co
	$(PYTEST) -m network

test-oldest: $(OLDEST)/.installed  ## run the quick tests with the oldest packages that pyproject.toml allows
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadscope

FUZZ := PYTHONPATH=tests:benchmarks OMP_NUM_THREADS=1 $(BIN)/python -m fuzz

fuzz: $(INSTALLED)  ## try 1,000 images, weights, folders and command lines made at random, and 100 damaged files by each reader
	$(FUZZ)
	$(FUZZ) --damaged 100

lint: $(INSTALLED)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)  ## run the benchmarks on the CPU, two hours; results go to benchmarks/results
	for script in $$(grep -l __main__ benchmarks/*.py | grep -v -e gpu -e finetuning -e before_after -e web_page -e shared_work -e data_parallel -e reliability); do $(BIN)/python $$script || exit 1; done
	$(BIN)/torchrun --nproc-per-node 2 benchmarks/shared_work.py
	$(BIN)/torchrun --nproc-per-node 2 benchmarks/data_parallel.py
	$(BIN)/python benchmarks/inference.py --parts
	$(KEEPING) $(BIN)/python benchmarks/residual_tail.py --no-growth
	$(KEEPING) $(BIN)/python benchmarks/training_step.py --no-compiled --no-memory --no-growth --parts \
		--rounds 5 --processes 3 --contestants "timm resnet50" "timm seresnet50" "senet se_resnet50"

bench-gpu: $(INSTALLED)  ## check and time everything on a GPU, 8 minutes on an H100; results go to benchmarks/results/gpu.json
	$(BIN)/python benchmarks/gpu.py

# What the API reference describes: the public names, and the modules that the pages import from.
API := senet senet.ops senet.recipes senet.analysis.figures senet.analysis.measures senet.errors senet.evaluation.prediction

docs: $(INSTALLED)  ## regenerate the tables in docs/ and build the API reference in site/; a warning is an error
	PYTHONPATH=docs $(BIN)/python -m pages
	$(BIN)/python -W error::UserWarning -W error::RuntimeWarning -m pdoc --docformat google --output-directory site $(API)

# What the files in requirements/ are made of; packages stay at the versions that a file has, but with
# UPGRADE=--upgrade, or UPGRADE="--upgrade-package NAME", as for one whose oldest version has become lower.
UPGRADE ?=
COMPILE = $(TOOLS)/bin/uv pip compile --quiet --generate-hashes --no-strip-extras --custom-compile-command "make requirements"
ANYWHERE := --universal --python-version 3.11 --fork-strategy fewest

requirements: $(TOOLS)/.installed  ## write the files in requirements/ again: what is tested, the oldest allowed, the tools
	$(COMPILE) $(UPGRADE) $(ANYWHERE) pyproject.toml --extra all --group dev -o requirements/tested.txt
	$(COMPILE) $(UPGRADE) $(ANYWHERE) pyproject.toml --extra all -c requirements/tested.txt -o requirements/runtime.txt
	$(COMPILE) $(UPGRADE) $(ANYWHERE) --group release -o requirements/release.txt
	$(COMPILE) $(UPGRADE) --python-version 3.11 --python-platform x86_64-manylinux_2_28 --resolution lowest-direct \
		pyproject.toml --extra all --group dev -o requirements/oldest.txt

audit: $(TOOLS)/.installed  ## look up known weaknesses of what is tested, at pypi.org's or osv.dev's service
	$(TOOLS)/bin/python requirements/audit.py

release: $(TOOLS)/.installed  ## build dist/: both archives twice, which must be equal; the list of their parts; checksums
	$(TOOLS)/bin/python requirements/release.py

$(INSTALLED): pyproject.toml requirements/tested.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(HASHED) requirements/tested.txt
	$(BIN)/python $(ITSELF)
	touch $@

$(OLDEST)/.installed: pyproject.toml requirements/oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python $(HASHED) requirements/oldest.txt
	$(OLDEST)/bin/python $(ITSELF)
	touch $@

$(TOOLS)/.installed: requirements/release.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python $(HASHED) requirements/release.txt
	touch $@

clean:  ## remove the environments and what the tools have left
	rm -rf $(VENV) $(OLDEST) $(TOOLS) build dist site .mypy_cache .pytest_cache .ruff_cache
