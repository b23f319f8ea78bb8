# The two commands of the README are `make demo` and `make test`; each sets up all it needs.
.PHONY: demo test unit coverage gates lint types mypy pyright check installed lowest others django6 fuzz soak matrix bench clean
VENV := .venv
PY := $(VENV)/bin/python
# Many containers set this. Each of the hundreds of processes that the demo and the tests start would
# compile all that it imports, which would take most of the time.
unexport PYTHONDONTWRITEBYTECODE

demo: $(VENV)/.synced
	$(VENV)/bin/pgnotifier demo $(ARGS)

# What tests write goes below .venv, where what failed ones wrote can be looked at.
test unit coverage gates installed: export PYTEST_DEBUG_TEMPROOT := $(CURDIR)/$(VENV)/tmp

# More processes than there are cores, as many tests wait for a server or for time to pass.
test: $(VENV)/.tmp
	$(PY) -m pytest -n 5 --dist loadgroup -m "not (gate or lasting)" $(EXAMPLES) $(ARGS)

# What is fast, and needs no process but those of PostgreSQL and Valkey.
unit: $(VENV)/.tmp
	$(PY) -m pytest -n 2 --dist loadgroup -m "not (gate or lasting or servers or slow)" tests/unit $(ARGS)

# All tests but those that expect a speed, with the lines and branches that they run in any process.
coverage: export COVERAGE_FILE := $(CURDIR)/$(VENV)/coverage/data
coverage: $(VENV)/.tmp
	@rm -rf $(VENV)/coverage && mkdir $(VENV)/coverage
	$(PY) -m coverage run -m pytest -n 5 --dist loadgroup -m "not alone" $(ARGS)
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

# What takes too long for every run of the tests; what needs a speed has the machine for itself.
# ARGS may choose none of one kind; pytest ends with 5 then.
gates: OR_NONE = $(if $(ARGS),|| [ $$? = 5 ])
gates: $(VENV)/.tmp
	$(PY) -m pytest -n 6 --dist loadgroup -m "(gate or lasting) and not alone" $(EXAMPLES) $(ARGS) $(OR_NONE)
	$(PY) -m pytest -m "gate and alone" $(EXAMPLES) $(ARGS) $(OR_NONE)

lint: $(VENV)/.synced
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell
	$(PY) scripts/prose
	$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec examples/deploy/compose.yaml
	$(VENV)/bin/kubernetes-validate --quiet --strict examples/deploy/kubernetes/*.yaml

types: mypy pyright

mypy pyright: $(VENV)/.synced
	$(VENV)/bin/$@

# All that has to hold before a change is merged; CI runs it. What waits or has one thread runs side
# by side.
check: EXAMPLES := --hypothesis-profile=thorough
check: $(VENV)/.synced
	$(MAKE) -j 2 --output-sync=target lint mypy pyright
	$(MAKE) test gates EXAMPLES=$(EXAMPLES)
	$(MAKE) -j 3 --output-sync=target lowest others django6 installed fuzz soak

# Each extra of the wheel, in an environment of its own; needs a package index.
installed: $(VENV)/.tmp
	$(PY) -m pytest -q -n 2 tests/installed

# The oldest versions of all that is needed, and of PostgreSQL.
lowest: $(VENV)/.tmp
	scripts/matrix --postgresql 14 --resolution lowest

# The other Pythons and PostgreSQL servers that are here, without slow tests.
others: $(VENV)/.tmp
	scripts/matrix --others

django6: $(VENV)/.synced
	scripts/django6

fuzz: $(VENV)/.synced
	scripts/fuzz

soak: $(VENV)/.synced
	$(PY) benchmarks/soak.py --minutes 2

# Other Pythons, PostgreSQL servers and dependencies, with the built wheel.
matrix: $(VENV)/.tmp
	scripts/matrix

bench: $(VENV)/.synced
	$(PY) benchmarks/run.py $(ARGS)

clean:
	rm -rf $(VENV) dist

$(VENV)/.tmp: $(VENV)/.synced
	@mkdir -p $(VENV)/tmp && touch $@

$(VENV)/.synced: pyproject.toml uv.lock scripts/setup scripts/uv
	@PYTHON="$(PYTHON)" scripts/setup
