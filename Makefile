# Needs Python 3.11-3.13, git and make. Everything else is installed into .venv from the hashed lock file.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
BIN := .venv/bin
STAMP := .venv/.hpslib-setup
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

.PHONY: setup course test bench browser-test lab lint notebooks lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet "uv>=0.8,<1"
	$(BIN)/python -m uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/python -m uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

# Every notebook on a fresh kernel; executed copies, one HTML report and the headline table in build/.
course: setup
	$(BIN)/python -m hpslib.lessons.course run

# Both runs always happen; the target fails if either does.
test: setup
	@status=0; \
	echo "pytest tests"; $(BIN)/python -m pytest tests || status=1; \
	$(if $(NOTEBOOKS),echo "pytest --nbval notebooks"; $(BIN)/python -m pytest --nbval $(NOTEBOOKS) || status=1;) \
	exit $$status

# Ours beside what people would otherwise run, as ratios measured in one run; results are compared. Some minutes.
bench: setup
	cd tests/benchmarks && for table in statistics scores; do ../../$(BIN)/python bench_$$table.py || exit 1; done
	cd tests/benchmarks && ../../$(BIN)/python bench_caches.py

# The voting widget in JupyterLab and a headless Chromium: the machine's, or playwright's own. Part of `make test` where
# a Chromium is found. Screenshots in build/screenshots.
browser-test: setup
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || $(BIN)/python -m playwright install --with-deps chromium
	HPSLIB_BROWSER_TEST=1 HPSLIB_SCREENSHOTS=build/screenshots $(BIN)/python -m pytest -s tests/browser

lab: setup
	$(BIN)/python -m jupyterlab --notebook-dir=notebooks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Re-execute the notebooks in place and store their outputs; a second run changes no byte.
notebooks: setup
	$(BIN)/python -m hpslib.lessons.course store

# Local wheel folders are left out, so that every hash is that of the package's ordinary release.
lock:
	env -u UV_FIND_LINKS -u PIP_FIND_LINKS $(BIN)/python -m uv pip compile pyproject.toml --extra dev --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o requirements.lock

clean:
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache notebooks/.ipynb_checkpoints
	find hpslib tests -name __pycache__ -type d -prune -exec rm -rf {} +
