# make demo: the embedded example, end to end.
# make quick: the tests of a minute or two.  make test: lint, types and all tests but the slow ones.  make slow: those.
# make audit: known vulnerabilities of what is pinned, or a failure where one package could not be asked about.
# make lock: its hashes anew, after a change to constraints.txt.
# make docs: the site, in build/site.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# one thread for each of the processes: threads of several that wait for each other by spinning are many times slower
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal
UNCHECKED := arg-type assignment call-overload func-returns-value index list-item misc operator return-value \
  union-attr var-annotated
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo quick test slow lint audit lock docs clean

demo: $(VENV)/.installed
	$(BIN)/thaw study --recipe emoji-people --out runs/emoji-people

quick: $(VENV)/.installed-tests
	$(PYTEST) -m "not slow and not browser"

test: $(VENV)/.installed-tests lint
	$(PYTEST) -m "not slow"

slow: $(VENV)/.installed-tests
	$(PYTEST) -m slow

# the tests' helpers as strictly as the source; of the tests, what they call and import
lint: $(VENV)/.installed-tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	MYPYPATH=src:tests $(BIN)/mypy --config-file= --ignore-missing-imports --follow-imports=silent \
	  --explicit-package-bases $(addprefix --disable-error-code=,$(UNCHECKED)) benchmarks tests

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
