# make demo   the whole way on rendered faces: environment, shards, training, a short audit of what was reached
# make test   environment and the whole test suite, in two processes
# make lint   formatting, lint and types
# make docs   the documentation site, build/site/index.html; a dead link ends it

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Four of the ten attackers, on fresh faces alone: a minute or two.
QUICK  := --taps '[layer3, backbone, release]' --attackers '[logistic, mlp1, svm, noise]' --faces '[fresh]' --folds 3 \
          --seeds 1 --components 128 --releases '[1]' --references '[unprotected]'

.PHONY: demo test lint types docs clean

demo: $(VENV)/installed
	$(BIN)/privatenet shards build synthetic --workers 2 --out shards/demo
	$(BIN)/privatenet run --config demo.yaml
	$(BIN)/privatenet audit runs/demo/private $(QUICK)
	@echo 'next     . $(BIN)/activate, which puts privatenet on the path; then privatenet audit runs/demo/private'

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed build/types/privatenet
	MYPYPATH=build/types $(BIN)/mypy -p privatenet

docs: $(VENV)/installed build/types/privatenet
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo 'next     build/site/index.html; the search asks for a server: python -m http.server --directory build/site'

# Types are checked, and documents made, through links, as these do not follow the mapping of folders to the namespace.
build/types/privatenet:
	mkdir -p $@
	for room in data_shards models distributed audit tune launch; do ln -sfn ../../../$$room $@/$$room; done

$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "privatenet needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo 'installing the packages, 6.6 GB'
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf build dist *.egg-info
