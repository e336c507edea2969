# `make` lists the targets. Everything is installed into .venv (packages) and .comfyui (the ComfyUI that the demo and
# the tests run); set COMFYUI_DIR to use a ComfyUI of your own: what it asks for is then installed into .venv instead.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo serve train quick test hosts lint clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One for each ComfyUI: they ask for different packages, and .venv has those of the last one.
STAMPS := $(VENV)/.setup-done
SPACE := $(subst ,, )
STAMP := $(STAMPS)$(subst $(SPACE),+,$(subst /,+,$(COMFYUI_DIR)))
# Test files that run at the same time: they wait for servers and pages a third of their time, and four left three tenths
# of two cores idle. Each may start a ComfyUI of a gigabyte: never more than six.
JOBS ?= $(shell $(PYTHON) -c "import os; print(min(6, 3 + (os.cpu_count() or 2)))")
# Some tools set it. Each of a run's fifty processes would then compile torch, transformers and ComfyUI for itself, which
# takes longer than what it does with them.
unexport PYTHONDONTWRITEBYTECODE
# More arguments, as in `make demo ARGS=--gpu` or `make test ARGS="-m 'not host' -x"`.
ARGS ?=

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## install everything into .venv and fetch ComfyUI (the first time: some minutes)

demo: $(STAMP)  ## run the quick-start workflow in ComfyUI; pictures and report go to demo_output/
	$(BIN)/python scripts/demo.py $(ARGS)

serve: $(STAMP)  ## run ComfyUI with this pack on http://127.0.0.1:8188
	$(BIN)/python scripts/comfyui_host.py serve $(ARGS)

train: $(STAMP)  ## train the bundled model again, on a GPU: training/README.md
	$(BIN)/python training/train.py $(ARGS)

# Fast folders first. No server, no browser, no import of ComfyUI (tests/host), no training.
QUICK := plan prompts sampling measure pictures files page servers repository training kandinsky

quick: $(STAMP)  ## run the quick tests: a minute
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not host and not browser and not gpu and not slow" $(QUICK:%=tests/%) $(ARGS)

test: $(STAMP)  ## run all tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

hosts: $(STAMP)  ## run tests/host and tests/page on other versions: make hosts HOSTS="FOLDER ...", for docs/hosts.md
	$(BIN)/python scripts/try_hosts.py --page $(HOSTS) $(ARGS)

lint: $(STAMP)  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:  ## remove what the other targets made, but for demo_output/ and .training/
	rm -rf $(VENV) .comfyui .pytest_cache .ruff_cache .hypothesis test_artifacts
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The interpreter, made once; a new Python version needs `make clean`.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is not a Python 3.10 or later; install one, or name it: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "error: $(PYTHON) has no venv; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip

# One pip call for everything, so that it picks a torch and a torchvision that fit each other. Without bytecode: of 15,000
# modules a third is ever imported, and compiled then.
$(STAMP): requirements.txt requirements-dev.txt scripts/comfyui_host.py | $(BIN)/python
	$(BIN)/python scripts/comfyui_host.py requirements > $(VENV)/host-requirements.txt
	$(BIN)/python -m pip install --no-compile -r $(VENV)/host-requirements.txt -r requirements.txt -r requirements-dev.txt
	rm -f $(STAMPS)*
	touch $@
