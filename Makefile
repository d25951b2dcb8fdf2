# Everything runs in .venv, which is made once from pyproject.toml and the pinned constraints.txt.
#
#   make install   the environment alone
#   make demo      an X-ray of a pelvis unknown to the model -> shape and pose -> out/demo/report.html
#   make test      lint, then every test (PYTEST_ARGS="-k camera" chooses), on WORKERS=2 processes (0: in this one)
#   make lint      ruff and mypy
#   make clean     removes what the other targets made
#
# PYTHON=/path/to/python chooses the interpreter that .venv is made with (3.11 or later).

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?=
WORKERS ?= 2
CODE := shapefit tests scripts

.PHONY: install demo test lint clean

install: $(STAMP)

# A candidate counts only if it runs, is new enough and can make environments with pip in them.
$(STAMP): pyproject.toml constraints.txt
	@set -e; found=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3); do \
	    if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	        >/dev/null 2>&1; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "make: no Python >= 3.11 with venv found" \
	        "(tried $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3.13 python3));" \
	        "install one (Debian: python3 python3-venv), or say make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	fi; \
	[ -x $(BIN)/python ] || "$$found" -m venv $(VENV); \
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"; \
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python scripts/demo.py

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) out build dist .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
