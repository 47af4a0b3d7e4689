# Every target sets itself up in .venv from nothing but a Python >= 3.11 (or uv).

BIN := .venv/bin
READY := .venv/.ready

export MPLBACKEND := Agg
# pyright would otherwise ask the network whether a newer one exists.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: test slow lint notebooks reproduce benchmark docs clean

test: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

# What is marked slow, and what tests/slow_tests.txt lists. TURN=7 begins at another test.
slow: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile -m slow -x --turn $(or $(TURN),0)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python .ci/notebooks.py --in-step

notebooks: $(READY)
	$(BIN)/python .ci/notebooks.py

reproduce: $(READY)
	$(BIN)/gflow reproduce --all --out results

# In an environment of its own: the alternatives weigh more than gflow.
benchmark: $(READY)
	$(BIN)/python -m venv .venv-benchmark
	.venv-benchmark/bin/python -m pip install --quiet --editable ".[benchmark]"
	OMP_NUM_THREADS=1 .venv-benchmark/bin/python -m benchmarks all

# Into site/, in an environment of its own; nothing of gflow is imported for it.
docs: .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

.venv-docs/.ready: pyproject.toml
	python3 -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-docs/bin/python -m pip install --quiet --group docs
	@touch $@

clean:
	rm -rf .venv .venv-benchmark .venv-docs build dist results site .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A candidate counts when it is new enough and can make an environment with pip in it. The versions
# are those that the project was measured with.
$(READY): pyproject.toml constraints.txt
	@set -e; \
	if command -v uv >/dev/null; then \
	    test -x $(BIN)/python || uv venv --seed --python '>=3.11' .venv; \
	    uv pip install --python $(BIN)/python --constraint constraints.txt \
	        --editable . --group dev; \
	else \
	    if ! test -x $(BIN)/python; then \
	        for python in python3 python3.13 python3.12 python3.11 none; do \
	            $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	                2>/dev/null && break; \
	        done; \
	        if test $$python = none; then \
	            echo "No Python >= 3.11 with venv and pip on PATH: install one, or install uv." >&2; \
	            exit 1; \
	        fi; \
	        $$python -m venv .venv; \
	    fi; \
	    $(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'; \
	    $(BIN)/python -m pip install --quiet --constraint constraints.txt \
	        --editable . --group dev; \
	fi
	@touch $@
