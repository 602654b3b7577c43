# Needs Python 3.11-3.14, git and make. Everything else is installed into .venv from the hashed lock file.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3,$(shell command -v $(name) 2>/dev/null)))
BIN := .venv/bin
STAMP := .venv/.hpslib-setup
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

.PHONY: setup course test oldest newest portable badges bench browser-test lab lint docs notebooks lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(BIN)/python -c '$(FITS)' 2>/dev/null || { $(or $(PYTHON),false) -c '$(FITS)' || { \
		echo "$(or $(PYTHON),python3) is no Python 3.11 to 3.14: install one, or name it with make setup PYTHON=..."; exit 1; \
	}; $(PYTHON) -m venv --clear .venv; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet "uv>=0.8,<1"
	$(BIN)/python -m uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/python -m uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

# Every notebook on a fresh kernel; executed copies, one HTML report and the headline table in build/.
course: setup
	$(BIN)/python -m hpslib.lessons.course run

# Both runs always happen; the target fails if either does. Two processes of one thread each: on so small matrices a second
# thread mostly waits for the first.
test: setup
	@status=0; \
	echo "pytest tests"; $(BIN)/python -m pytest tests -n 2 --dist worksteal || status=1; \
	$(if $(NOTEBOOKS),echo "pytest --nbval notebooks"; $(BIN)/python -m pytest --nbval -n 2 --dist loadfile $(NOTEBOOKS) || status=1;) \
	exit $$status

# The tests with the lowest versions that pyproject.toml allows, and with the newest that there are, each in an environment
# of its own below build/. PYTHON=python3.14 chooses another Python; the lowest versions have wheels for 3.11 only.
oldest newest: setup
	@mkdir -p build
	$(BIN)/python -m uv venv --quiet --clear --python $(PYTHON) build/$@
	env -u UV_FIND_LINKS -u PIP_FIND_LINKS $(BIN)/python -m uv pip compile pyproject.toml --extra dev --quiet --no-header \
		--resolution $(if $(filter oldest,$@),lowest-direct,highest) --upgrade --python build/$@/bin/python -o build/$@.txt
	$(BIN)/python -m uv pip install --quiet --python build/$@/bin/python -r build/$@.txt
	$(BIN)/python -m uv pip install --quiet --python build/$@/bin/python --no-deps --no-build-isolation --editable .
	build/$@/bin/python -m pytest tests -n 2 --dist worksteal

# The notebooks' stored outputs on other machines: as where there is only AVX2, and with two and with four threads (one is
# `make test`).
AVX2 := ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 DNNL_MAX_CPU_ISA=AVX2
portable: setup
	@status=0; for settings in "$(AVX2)" HPSLIB_THREADS=2 HPSLIB_THREADS=4; do \
		echo "pytest --nbval with $$settings"; env $$settings $(BIN)/python -m pytest --nbval $(NOTEBOOKS) || status=1; \
	done; exit $$status

# The set-up cell and the badges, with the address in pyproject.toml, into the notebooks and the README.
badges: setup
	$(BIN)/python -m hpslib.lessons.setup_cell write

# Ours beside what people would otherwise run, as ratios measured in one run; results are compared. Some minutes.
bench: setup
	cd tests/benchmarks && for table in statistics scores; do ../../$(BIN)/python bench_$$table.py || exit 1; done
	cd tests/benchmarks && ../../$(BIN)/python bench_caches.py

# The voting widget in JupyterLab and a headless Chromium: the machine's, or playwright's own. Part of `make test` where
# a Chromium is found. Screenshots in build/screenshots.
browser-test: setup
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || $(BIN)/python -m playwright install --with-deps chromium
	HPSLIB_BROWSER_TEST=1 HPSLIB_SCREENSHOTS=build/screenshots $(BIN)/python -m pytest -s tests/browser

# JupyterLab on a copy of the lessons in work/, which git does not see; what you have changed there stays as it is.
# ARGS hands more to it: make lab ARGS="--no-browser --port 9000".
lab: setup
	$(BIN)/python -m hpslib.lessons.working_copy notebooks work
	$(BIN)/python -m jupyterlab --notebook-dir=work $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation site in build/docs/html, offline: stored lessons, docstrings, docs/. Any warning fails it, a dead link
# among pages included; links that lead out are listed in build/docs/links.txt, not fetched.
docs: setup
	$(BIN)/python docs/sources.py build/docs/source
	$(BIN)/python -m sphinx -E -n -W --keep-going -q -c docs build/docs/source build/docs/html
	@echo "build/docs/html/index.html is ready; links that lead out: build/docs/links.txt"

# Re-execute the notebooks in place and store their outputs; a second run changes no byte.
notebooks: setup
	$(BIN)/python -m hpslib.lessons.course store

# Local wheel folders are left out, so that every hash is that of the package's ordinary release.
lock:
	env -u UV_FIND_LINKS -u PIP_FIND_LINKS $(BIN)/python -m uv pip compile pyproject.toml --extra dev --extra docs \
		--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o requirements.lock

clean:
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache notebooks/.ipynb_checkpoints
	find hpslib tests -name __pycache__ -type d -prune -exec rm -rf {} +
