# Everything runs in .venv, made from the hashed locks; nothing is installed anywhere else.
# A newcomer needs `make demo` and `make test`. Arguments pass through: make test ARGS="tests/trimtab -k gate"
PY      ?= python3
ARGS    ?=
BIN     := .venv/bin
UV      := .venv/boot/bin/uv
# A stamp is newer than the lock that was installed, so a second make does nothing.
VENV    := .venv/pyvenv.cfg
RUNTIME := .venv/.runtime-installed
DEV     := .venv/.dev-installed
INSTALL  = $(UV) pip sync $(if $(MAKE_TERMOUT),,--quiet) --python $(BIN)/python --require-hashes --compile-bytecode
PROJECT  = $(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --quiet --editable .
COMPILE  = $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
           --custom-compile-command "make lock"

# Without compiled bytecode imports take two to three times as long.
unexport PYTHONDONTWRITEBYTECODE
# Idle OpenMP threads that spin slow down everything beside them.
export OMP_WAIT_POLICY := passive
export UV_PYTHON_DOWNLOADS := never
# Otherwise another environment that happens to be active would be meant.
unexport VIRTUAL_ENV
unexport PYTHONHOME
unexport PYTHONPATH

.DELETE_ON_ERROR:
.PHONY: help demo test browser check docs reference format bench bench-serving bench-verdict data up down lock clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

demo: $(RUNTIME) ## a year of flights through the loop; the stack stays up for a look
	$(BIN)/trimtab demo $(ARGS)

test: $(DEV) ## every test that needs no browser and no Docker
	$(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder --durations=10 $(ARGS)

browser: $(DEV) ## the tests that look at the UIs in a headless Chromium
	$(BIN)/python -m pytest -m browser $(ARGS)

check: $(DEV) ## style, types, rooms, security
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive .

docs: $(DEV) ## the documentation as a site in build/docs; a broken link is an error
	$(BIN)/zensical build --clean --strict
	@! grep -rnoE '<(script|link|img|iframe)[^>]*(src|href)="https?:[^"]*' build/docs --include=*.html || { echo 'a page would need the network' >&2; exit 1; }

reference: $(DEV) ## the pages of docs/reference, from the code
	$(BIN)/python -m tools.reference

format: $(DEV) ## let ruff repair what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(RUNTIME) ## what the rules are worth, and what a retrain costs beside a plain script (after make demo)
	$(BIN)/python -m bench.monitoring_settings
	$(BIN)/python -m bench.retrain

bench-serving: $(RUNTIME) ## how fast the model server answers, beside an empty application, MLflow and BentoML (Linux, wrk)
	$(BIN)/python -m bench.serving $(ARGS)

bench-verdict: $(RUNTIME) ## how often verdicts are wrong, and how many labels they take, in simulated rollouts
	$(BIN)/python -m bench.verdict

data: $(RUNTIME) ## the first dataset, exactly as data.dvc names it; then `dvc repro` works
	$(BIN)/python -m tasks.pipeline data

up: $(RUNTIME) ## start the stack
	$(BIN)/trimtab up

down: ## stop the stack, the demo's too
	@if [ -x $(BIN)/trimtab ]; then $(BIN)/trimtab down --all; else echo "nothing is installed, so nothing runs"; fi

lock: $(UV) ## resolve the locks anew from pyproject.toml
	$(COMPILE) --upgrade pyproject.toml --output-file requirements.lock
	$(COMPILE) --upgrade pyproject.toml --group dev --constraints requirements.lock --output-file requirements-dev.lock
	$(COMPILE) --upgrade requirements-server.in --constraints requirements.lock --output-file requirements-server.lock
	$(COMPILE) --upgrade bench/peers/requirements.in --output-file bench/peers/requirements.lock
	$(COMPILE) --upgrade infra/images/build/sbom.in --output-file infra/images/build/sbom.lock
	$(COMPILE) --upgrade infra/images/object_store/objects.in --output-file infra/images/object_store/objects.lock
	echo uv | $(COMPILE) --upgrade - --output-file requirements-boot.lock

clean: down ## remove what was installed and cached; .trimtab and data stay
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV): requirements-boot.lock
	@command -v $(PY) >/dev/null || { echo "$(PY) is not installed: Trimtab needs Python 3.11 or newer (make PY=/path/to/python3 ...)" >&2; exit 1; }
	@$(PY) -c 'import sys; v = sys.version_info; ok = v >= (3, 11); ok or sys.stderr.write("Trimtab needs Python 3.11 or newer, and %s is %d.%d: name another one with make PY=/path/to/python3 ...\n" % (sys.executable, v[0], v[1])); sys.exit(0 if ok else 1)'
	@$(PY) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PY) cannot make virtual environments: its venv or ensurepip module is missing. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PY) -m venv --clear .venv/boot
	.venv/boot/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --requirement requirements-boot.lock
	@touch $@

$(VENV): $(UV)
	$(UV) venv --quiet --allow-existing --python .venv/boot/bin/python .venv
	@touch $@

# One environment: once the development tools are in, they stay in.
$(RUNTIME): requirements.lock pyproject.toml $(VENV)
	@echo "installing what the lock names into .venv: a minute or two the first time"
	@if [ -e $(DEV) ]; then $(INSTALL) requirements-dev.lock; else $(INSTALL) requirements.lock; fi
	@$(PROJECT)
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@$(INSTALL) requirements-dev.lock
	@$(PROJECT)
	@touch $@
