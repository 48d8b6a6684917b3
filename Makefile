# make demo      trains small language models with compiled memories and compiled optimizers
# make test      lint, formatting and the tests; make test-long adds the long ones
# make format    rewrites the sources in our style; make lint only looks
# make clean     removes caches and build products; the environment and runs/ stay
#
# The first target makes .venv with everything at the versions of constraints.txt. To use an
# environment of your own instead (a GPU build of torch, say), name its interpreter and nothing
# is installed:  pip install -e ".[test,demo]"  there once, then  make demo PYTHON=python

TORCH := $(shell grep '^torch==' constraints.txt)

ifdef PYTHON
  READY :=
  NLC := $(PYTHON) -m nlc
  export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
  BOOT := python3
  READY := .venv/.ready
  PYTHON := .venv/bin/python
  NLC := .venv/bin/nlc
endif

PYTEST := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist worksteal $(ARGS)
INTERPRETED := TRITON_INTERPRET=1 $(PYTEST)  # kernels on the CPU, in processes of their own
RUN := runs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test test-long lint format clean

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

demo: $(READY)
	@mkdir -p $(RUN)
	$(NLC) graph hope --optimizer m3_ema
	$(NLC) graph hope --optimizer m3_ema --format svg -o $(RUN)/hope.svg
	$(NLC) graph hope --optimizer m3_ema --format html -o $(RUN)/hope.html
	$(NLC) derive hope M_memory
	$(NLC) compile hope -o $(RUN)/hope.py
	$(NLC) compile gated_delta_net -o $(RUN)/gated_delta_net.py
	$(NLC) compile attention -o $(RUN)/attention.py
	$(NLC) compile adamw -o $(RUN)/adamw.py
	$(NLC) compile examples/m3_with_adamw.yaml -o $(RUN)/m3_with_adamw.py
	$(PYTHON) examples/demo.py --out $(RUN) $(ARGS)

test: lint
	$(PYTEST) -m "not long" tests
	$(INTERPRETED) -m "not long" tests/interpreted

test-long: lint
	HYPOTHESIS_PROFILE=default $(PYTEST) tests
	$(INTERPRETED) tests/interpreted

lint: $(READY)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: $(READY)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find nlc tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first, by its exact version, so that no other requirement can choose it
.venv/.ready: pyproject.toml constraints.txt
	@$(BOOT) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "nlc needs Python 3.11 or later; $(BOOT) is $$($(BOOT) --version 2>&1)" >&2; exit 1; }
	test -x .venv/bin/python || $(BOOT) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check --quiet "$(TORCH)"
	.venv/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[test,demo]"
	@touch $@
