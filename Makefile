# Two commands do everything: `make demo` and `make test`. They need Python 3.11 or later, make and the package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: setup demo test fuzz lint clean

setup: .venv/.ready

.venv/.ready: pyproject.toml Makefile
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.12.20,<0.13"
	@echo "installing (about 6 GB, most of it torch)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e ".[dev]" \
		|| $(BIN)/python -m pip install --quiet -e ".[dev]"
	@# Flower in this environment: no telemetry, no update check, no `uv sync` before a run, its state in .flwr.
	@printf '%s\n' 'import os; f = os.environ.setdefault; f("FLWR_TELEMETRY_ENABLED", "0"); f("FLWR_DISABLE_UPDATE_CHECK", "1"); f("RAY_USAGE_STATS_ENABLED", "0"); f("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1"); f("FLWR_HOME", "$(CURDIR)/.flwr"); f("FLWR_LOCAL_SUPERLINK_HTTP_API_PORT", "$(shell printf '%s' '$(CURDIR)' | cksum | awk '{print 20000 + $$1 % 10000}')"); f("SMILE_SITES", "$(CURDIR)/runs/demo/sites")' \
		> "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/smile-flower.pth"
	@mkdir -p .flwr
	@printf '%s\n' '[superlink]' 'default = "local"' '' '[superlink.local]' 'address = ":local:"' 'options.num-supernodes = 4' \
		'options.backend.client-resources.num-cpus = 1' 'options.backend.client-resources.num-gpus = 0' > .flwr/config.toml
	@touch $@

demo: setup
	$(BIN)/python -m simulations demo

test: setup
	$(BIN)/python -m pytest -q

fuzz: setup
	$(BIN)/python -m tests.fuzz.run --cases 10000

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

clean:
	rm -rf .venv .flwr runs .pytest_cache .mypy_cache .ruff_cache
