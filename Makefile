# Needs Python 3.11-3.14, git and make. Everything else is installed into .venv from the hashed lock file.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3,$(shell command -v $(name) 2>/dev/null)))
BIN := .venv/bin
STAMP := .venv/.hpslib-setup
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
# TORCH=cpu leaves out CUDA, 3 GB of packages, and TORCH=cuda takes it. Where neither is named: what .venv was made with
# (the stamp tells; an empty one is from when there was only cuda), else cpu on Linux without an NVIDIA card.
MADE := $(if $(wildcard $(STAMP)),$(or $(strip $(shell cat $(STAMP))),cuda))
NAMED := $(filter command environment,$(origin TORCH))
ifeq ($(NAMED),)
TORCH := $(or $(MADE),$(shell [ "$$(uname -s)" != Linux ] || nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu))
else ifneq ($(words $(TORCH)) $(filter cpu cuda,$(TORCH)),1 $(TORCH))
$(error TORCH is "$(TORCH)": write cpu or cuda)
endif
INSTALL := $(BIN)/python -m uv pip install --python $(BIN)/python
CPU_TORCH = $(INSTALL) --no-deps --torch-backend cpu $(shell grep -oE '^torch(vision)?==[^ ;]+' requirements.lock)
PROBE := UV_HTTP_TIMEOUT=5 UV_HTTP_CONNECT_TIMEOUT=5 UV_HTTP_RETRIES=0 $(shell command -v timeout >/dev/null && echo timeout 10)
NO_CUDA := awk '/^[^ ]/ { left_out = /^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/ } !left_out'
# Imports whatever a lesson imports, so that its bytecode is there (and a broken package is noticed).
WARM = env -u PYTHONDONTWRITEBYTECODE HF_HUB_OFFLINE=1 $(1) -c 'import importlib, pkgutil, hpslib; \
	[importlib.import_module(page.name) for page in pkgutil.walk_packages(hpslib.__path__, "hpslib.") \
	if not page.name.endswith("__main__")]; import ipykernel.kernelapp; from diffusers import StableDiffusionPipeline'

.PHONY: setup again course test oldest newest portable colab badges bench browser-test lab lint docs notebooks lock clean

setup: $(STAMP)

# A TORCH that is named, and is not the one in .venv, makes it anew.
ifneq ($(filter-out $(TORCH),$(MADE)),)
$(STAMP): again
again:
	rm -rf .venv
endif

$(STAMP): requirements.lock pyproject.toml
	@$(BIN)/python -c '$(FITS)' 2>/dev/null || { $(or $(PYTHON),false) -c '$(FITS)' || { \
		echo "$(or $(PYTHON),python3) is no Python 3.11 to 3.14: install one, or name it with make setup PYTHON=..."; exit 1; \
	}; $(PYTHON) -m venv --clear .venv; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet "uv>=0.8,<1"
	@if [ $(TORCH) = cpu ] && $(PROBE) $(CPU_TORCH) --dry-run >/dev/null 2>&1; then \
		echo "torch for the CPU, without a hash in requirements.lock; all other packages have theirs checked"; \
		$(NO_CUDA) requirements.lock >.venv/no-cuda.lock && $(CPU_TORCH) \
		&& $(INSTALL) --no-deps --require-hashes -r .venv/no-cuda.lock && echo cpu >.venv/torch; \
	else \
		[ $(TORCH) = cuda ] || echo "torch for the CPU alone cannot be fetched here: taking the one with CUDA, 3 GB more."; \
		$(INSTALL) --require-hashes -r requirements.lock && echo cuda >.venv/torch; \
	fi
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@echo "importing everything once, so that lessons start sooner"; $(call WARM,$(BIN)/python)
	@cat .venv/torch >$@

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
	$(call WARM,build/$@/bin/python)
	build/$@/bin/python -m pytest tests -n 2 --dist worksteal

# The lessons as somebody meets them on Colab: the versions of one of its runtimes (RUNTIME, a file in tests/tools/colab/), an
# empty folder, the set-up cell with the real pip. Says what pip added; it may replace nothing. Half an hour.
RUNTIME ?= 2026.06
COLAB_PYTHON ?= 3.12
colab: setup
	@mkdir -p build
	$(BIN)/python -m uv venv --quiet --clear --python $(COLAB_PYTHON) build/colab
	env -u UV_FIND_LINKS -u PIP_FIND_LINKS $(BIN)/python -m uv pip install --quiet --python build/colab/bin/python \
		-r tests/tools/colab/$(RUNTIME).txt
	$(BIN)/python tests/tools/colab.py build/colab/bin/python --keep build/colab-lessons

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
