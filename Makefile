# The two commands of the README are `make demo` and `make test`; each sets up all it needs.
.PHONY: demo test lint types check bench clean
VENV := .venv
PY := $(VENV)/bin/python

demo: $(VENV)/.synced
	$(VENV)/bin/pgnotifier demo $(ARGS)

# What tests write goes below .venv, where what failed ones wrote can be looked at.
test: export PYTEST_DEBUG_TEMPROOT := $(CURDIR)/$(VENV)/tmp
test: $(VENV)/.synced
	@mkdir -p "$$PYTEST_DEBUG_TEMPROOT"
	$(PY) -m pytest -n 4 --dist loadgroup $(ARGS)

lint: $(VENV)/.synced
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell
	$(PY) scripts/prose
	$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

types: $(VENV)/.synced
	$(VENV)/bin/mypy
	$(VENV)/bin/pyright

check: lint types test

bench: $(VENV)/.synced
	$(PY) benchmarks/run.py $(ARGS)

clean:
	rm -rf $(VENV) dist

$(VENV)/.synced: pyproject.toml uv.lock scripts/setup scripts/uv
	@PYTHON="$(PYTHON)" scripts/setup
