# make demo: install into .venv and run the demo. make test: install and run every test. make android-check: those of
# the Android app, which .ci/run installs the programs for.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test lint android-check clean

demo: $(INSTALLED)
	$(BIN)/edge-hadanorm demo --out demo-output --force

test: $(INSTALLED) lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 15

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

android-check: $(INSTALLED)
	$(BIN)/python -m pytest runtime_tests/app

$(INSTALLED): pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "edge-hadanorm needs Python 3.10 to 3.13: make PYTHON=python3.11 ..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv demo-output build *.egg-info
