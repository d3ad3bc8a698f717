# make demo: install into .venv and run the demo. make test: install and run every test. make check: lint, types and the
# tests of method, models and quantization, in about a minute. make android-check: the tests of the Android app, which
# .ci/run installs the programs for.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
INSTALLED := .venv/.installed

# What mypy sees: export/ at the place where it is imported from.
TYPED := build/typed/edge_hadanorm
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS)

.PHONY: demo test check lint android-check clean clean-cache

demo: $(INSTALLED)
	$(BIN)/edge-hadanorm demo --out demo-output --force

test: $(INSTALLED) lint
	$(PYTEST) --dist loadfile --no-loadscope-reorder --durations 15

check: $(INSTALLED) lint
	$(PYTEST) --dist worksteal -m 'not slow' runtime_tests/method runtime_tests/models runtime_tests/quantization \
		runtime_tests/test_imports.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(TYPED) && ln -sfn $(CURDIR)/edge_hadanorm/* $(TYPED) && ln -sfn $(CURDIR)/export $(TYPED)/exporters
	cd $(dir $(TYPED)) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml

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

# What tests and benchmarks keep between runs: native programs, tools that are downloaded.
clean-cache:
	rm -rf $(HOME)/.cache/edge-hadanorm
