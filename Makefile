# Everything runs from the virtual environment in .venv, which the targets make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
.DEFAULT_GOAL := help
.PHONY: help setup clients demo test test-fast soak check format pins test-images clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else f"Lightbox needs Python 3.10 to 3.13, {sys.executable} is {v[0]}.{v[1]}: call make PYTHON=python3.12, or the like.")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

setup: $(VENV)/.installed  ## make the virtual environment .venv and install Lightbox

# min-tfs-client 1.0.2 (2020) has generated code that needs an older protobuf.
$(VENV)/clients/.installed: | $(VENV)/.installed
	$(BIN)/python -m venv $(VENV)/clients
	$(VENV)/clients/bin/python -m pip install --quiet --disable-pip-version-check 'min-tfs-client==1.0.2' 'protobuf<3.21'
	touch $@

clients: $(VENV)/clients/.installed  ## install a third-party client of TF Serving, for the tests

demo: setup  ## sample data -> records -> train -> evaluate -> export -> serve -> ask
	rm -rf $(DEMO)
	PYTHON=$(BIN)/python tests/demo.sh $(DEMO)

test: check clients  ## lint, check the import direction, run all CPU-only tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-fast: check clients  ## the same without the tests marked slow
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m 'not slow'

soak: setup  ## attack the local server for ten minutes, with good clients beside
	$(BIN)/python -m tests.benchmarks.soak --minutes=10

check: setup  ## ruff (lint and format) and the import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

format: setup  ## let ruff format and fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The images' Python and platform. Their newest TensorFlow for TPUs is 2.20 and
# has libtpu's interface of 0.0.18; it brings the module `tensorflow` itself.
PINS := deploy/docker/requirements
PIN := $(BIN)/uv pip compile --quiet --generate-hashes --no-annotate \
	--custom-compile-command='make pins' \
	--python-version=3.11 --python-platform=x86_64-manylinux_2_36

pins: setup  ## pin what the images install to the versions in .venv
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/tested.txt
	grep -v '^tensor' $(VENV)/tested.txt > $(VENV)/tested-tpu.txt
	printf 'setuptools\nwheel\n' | $(PIN) -c $(VENV)/tested.txt -o $(PINS)-build.txt -
	$(PIN) -c $(VENV)/tested.txt --extra=medical -o $(PINS)-cpu.txt setup.py
	$(PIN) -c $(VENV)/tested.txt --extra=medical --extra=gpu -o $(PINS)-gpu.txt setup.py
	printf 'tensorflow==2.20.0\ntensorflow-tpu==2.20.0\nlibtpu==0.0.18\n' | \
		$(PIN) -c $(VENV)/tested-tpu.txt --extra=medical --no-emit-package=tensorflow -o $(PINS)-tpu.txt setup.py -

test-images: setup  ## install what the images do (12 GB, one by one), and train with it
	$(BIN)/python -m pytest tests/deploy/images.py

clean:  ## remove what the targets made
	rm -rf $(VENV) $(DEMO) *.egg-info .pytest_cache .ruff_cache
