# make demo: the embedded example, end to end.  make test: lint, types and all tests.
# make audit: known vulnerabilities of what is pinned, or a failure where one package could not be asked about.
# make lock: its hashes anew, after a change to constraints.txt.
# make docs: the site, in build/site.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint audit lock docs clean

demo: $(VENV)/.installed
	$(BIN)/thaw study --recipe emoji-people --out runs/emoji-people

# one thread for each of the processes: threads of several that wait for each other by spinning are many times slower
test: $(VENV)/.installed-tests lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# the tests for GPUs too, since most machines never run them
lint: $(VENV)/.installed-tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=src:tests $(BIN)/mypy --config-file= --ignore-missing-imports --follow-imports=silent \
	  --explicit-package-bases benchmarks tests/test_gpu.py

audit: $(VENV)/.installed
	$(INSTALL) pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

# torch, torchvision and what they bring for CUDA have no hashes: which of their wheels fits depends on the machine
lock: $(VENV)/.installed
	$(INSTALL) uv
	$(BIN)/uv pip compile --quiet --python $(BIN)/python --generate-hashes --no-annotate --no-header \
	  --constraints constraints.txt pyproject.toml tests/requirements.txt --output-file requirements.lock \
	  $$($(BIN)/uv pip compile --quiet --python $(BIN)/python --no-annotate --no-header --constraints constraints.txt \
	  pyproject.toml | grep -oE '^(torch|torchvision|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)==' | \
	  sed 's/==//; s/^/--no-emit-package /')

docs: $(VENV)/.installed
	$(INSTALL) -r docs/requirements.txt
	$(BIN)/mkdocs build --strict --quiet

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-tests: $(VENV)/.installed tests/requirements.txt
	$(INSTALL) -r tests/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) build runs
