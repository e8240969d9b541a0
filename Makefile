# make demo        set everything up and run the main job: export, parity, benchmark, report
# make test        set everything up and pass lint, types and tests
# make test-oldest packages, sessions and the exporter on the oldest releases that setup.cfg allows (gigabytes, minutes)
# make triton-env  a real Triton server in .venv-triton, for resnext-export check-triton; needs Python 3.11 or 3.12
# make docs        build the documents as a site into build/site; a broken link or anchor fails
# make speed       measure the speed claims that docs/results makes of the toolkit itself
# make faults      kill each phase 200 times, fill disks, share a cache: the next run must succeed (a quarter of an hour)
# make gpu-accept  what only a GPU can show, numbers first, tests last; needs Python with torch, no virtual environment
# make fuzz        mutate every kind of file that is read, RUNS cases for each reader; needs Python 3.11
# make clean       remove what these made

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := demo
OUT    ?= gpu-accept
# Seconds that the acceptance may take in all.
BUDGET ?= 540
# Tests run side by side, one process for each core with one thread each; make pytest WORKERS=0 keeps to one process.
WORKERS ?= auto
# Cases for each reader of make fuzz.
RUNS ?= 8000
OLDEST_PYTHON ?= python3.12
OLDEST_VENV   := .venv-oldest
TRITON_PYTHON ?= $(PYTHON)
TRITON_VENV   := .venv-triton
OLDEST_TESTS  := tests/core/readers tests/core/images tests/core/weights tests/core/artifact/test_artifact.py \
	tests/core/artifact/test_what_is_loaded.py tests/core/runtimes/test_backends.py tests/core/artifact/test_package_record.py tests/core/runtimes/test_package_toolchain.py \
	tests/core/runtimes/test_pt2_session.py tests/core/runtimes/test_session.py tests/core/runtimes/test_torch_release.py \
	tests/exporting/convert/test_onnx_export.py tests/exporting/*/test_pt2_*.py
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1
# Most of the gigabytes that pip installs is never imported: to byte-compile it all takes half a minute and
# more. Python compiles what is imported, once, if it may write that down.
PIP_INSTALL := -m pip install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types pytest docs test-oldest speed faults fuzz gpu-accept triton-env clean
.DEFAULT_GOAL := demo

# The stamp is newer than what it was installed from, so that a second make installs nothing.
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[test]"
	@touch $@

demo: $(VENV)/.installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" benchmarks/demo.sh $(DEMO)

test: $(VENV)/.installed
	@$(MAKE) --no-print-directory -j2 lint types
	@$(MAKE) --no-print-directory pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=.:export:benchmarks $(BIN)/lint-imports --no-cache

types: $(VENV)/.installed
	$(BIN)/mypy

pytest: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(OLDEST_VENV)/.installed: setup.cfg pyproject.toml oldest.txt
	$(OLDEST_PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/python -m pip install --quiet -c oldest.txt -e ".[openvino]" pytest pytest-timeout hypothesis
	@touch $@

test-oldest: $(OLDEST_VENV)/.installed
	OMP_NUM_THREADS=1 $(OLDEST_VENV)/bin/python -m pytest -q -m "exhaustive or not exhaustive" $(PYTEST_ARGS) $(OLDEST_TESTS)

triton-env: $(TRITON_VENV)/.installed

$(TRITON_VENV)/.installed: triton-env.txt
	@$(TRITON_PYTHON) -c 'import platform, sys; sys.exit("make triton-env needs Python 3.11 or 3.12 on Linux x86-64, this is " + platform.python_version() + " on " + platform.system() + " " + platform.machine() + "; try make triton-env TRITON_PYTHON=python3.11" if sys.version_info[:2] not in ((3, 11), (3, 12)) or (platform.system(), platform.machine()) != ("Linux", "x86_64") else 0)'
	$(TRITON_PYTHON) -m venv $(TRITON_VENV)
	$(TRITON_VENV)/bin/python $(PIP_INSTALL) --no-deps -r triton-env.txt
	@touch $@

speed: $(VENV)/.installed
	$(BIN)/python benchmarks/check_speed.py

fuzz: $(VENV)/.installed
	@$(BIN)/python -c 'import sys; sys.exit("make fuzz needs Python 3.11, for which atheris exists; try make fuzz PYTHON=python3.11 VENV=.venv-fuzz" if sys.version_info[:2] != (3, 11) else 0)'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[fuzz]"
	PYTHONPATH=.:export:benchmarks:tests $(BIN)/python -m fuzz.run --runs $(RUNS)

faults: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -m "exhaustive or not exhaustive" $(PYTEST_ARGS) tests/faults

gpu-accept:
	PYTHONPATH=.:export:benchmarks$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON) benchmarks/gpu_accept.py --out $(OUT) --budget $(BUDGET)

clean:
	rm -rf $(VENV) $(OLDEST_VENV) $(TRITON_VENV) $(DEMO) fuzz-findings build dist .mypy_cache .ruff_cache .pytest_cache *.egg-info
