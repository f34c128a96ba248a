# make demo: the embedded example, end to end.  make test: lint, types and all tests.
# make docs: the site, in build/site.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed
	$(BIN)/thaw study --recipe emoji-people --out runs/emoji-people

test: $(VENV)/.installed-tests lint
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

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
