# make demo and make test need Python 3.11 or later and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := $(VENV)/.demo

# Without an NVIDIA or AMD GPU the CPU build of torch is taken, pinned with the Triton that matches it. Its own index is
# asked only where it answers at once.
ifeq ($(shell command -v nvidia-smi || command -v rocm-smi),)
CONSTRAINTS := -c constraints-cpu.txt
CPU_INDEX := https://download.pytorch.org/whl/cpu
REACHES = $(shell $(PYTHON) -c "import urllib.request as u; u.urlopen('$(CPU_INDEX)', timeout=3)" 2>/dev/null && echo yes)
INDEX = $(if $(REACHES),--extra-index-url $(CPU_INDEX))
endif

.PHONY: demo quick test lint docs notebook fuzz faults wheel lowest bench gpu clean
demo: $(DEMO)
	$(BIN)/rankshift demo

# Tests run in so many processes, each with files of its own; of one file they run one after the other.
JOBS ?= 2
TEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# All that needs no cluster, browser or compiler and is done in seconds: for the while one works.
quick: $(READY)
	$(TEST) -m "not slow"

test: $(READY)
	$(TEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# So many damaged files of every kind that is read: docs/testing.md.
N ?= 3000
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz --n $(N) --seed $(SEED)

# Screens, trainings and jobs are killed, stopped and moved away for so many minutes: docs/testing.md.
MINUTES ?= 20
SEED ?= 1
faults: $(READY)
	$(BIN)/python -m tests.faults --minutes $(MINUTES) --seed $(SEED)

# The site of the docs, in build/site: open index.html. A link that leads nowhere fails it.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict -f .ci/mkdocs.yml

# The tutorial, from its first cell to its last; KEEP=--keep writes its outputs back.
notebook: $(READY)
	$(BIN)/python .ci/notebook.py $(KEEP)

wheel: $(READY)
	$(BIN)/python .ci/wheel.py

# The lowest versions that pyproject.toml declares, under a part of the tests.
lowest: $(READY)
	$(BIN)/python .ci/lowest.py

bench: $(READY)
	$(BIN)/python -m benchmarks.bench

# What a GPU does, in minutes and in lines of JSON; make gpu CPU=--cpu rehearses it where there is none.
gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu $(CPU)

ENVIRONMENT = $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or later is needed: make PYTHON=python3.11')" \
	&& $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(INDEX) $(CONSTRAINTS) -e

# What the demo needs is a part of what the tests need.
$(DEMO): pyproject.toml constraints-cpu.txt
	$(ENVIRONMENT)
	$(INSTALL) ".[cluster,train]"
	touch $(DEMO)

$(READY): pyproject.toml constraints-cpu.txt
	$(ENVIRONMENT)
	$(INSTALL) ".[dev]"
	touch $(READY) $(DEMO)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demo
