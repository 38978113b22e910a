# make demo   the whole way on rendered faces: environment, shards, training on two ranks, a short audit of what was reached
# make test   environment and the whole test suite, in two processes
# make lint   formatting, lint and types

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RANKS  ?= 2
# Four of the ten attackers, on fresh faces alone: a minute or two.
QUICK  := --taps '[layer3, backbone, release]' --attackers '[logistic, mlp1, svm, noise]' --faces '[fresh]' --folds 3 \
          --seeds 1 --components 128 --releases '[1]' --references '[unprotected]'

.PHONY: demo test lint clean

demo: $(VENV)/installed
	$(BIN)/privatenet shards build synthetic --workers 2 --out shards/demo
	$(BIN)/privatenet run --ranks $(RANKS) --config demo.yaml
	$(BIN)/privatenet audit runs/demo/private --ranks $(RANKS) $(QUICK)
	@echo 'next     . $(BIN)/activate, which puts privatenet on the path; then privatenet audit runs/demo/private'

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/installed build/types/privatenet
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=build/types $(BIN)/mypy -p privatenet

# Types are checked through links, as checkers do not follow the mapping of folders to the namespace.
build/types/privatenet:
	mkdir -p $@
	for room in data_shards models distributed audit tune launch; do ln -sfn ../../../$$room $@/$$room; done

$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "privatenet needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf build dist *.egg-info
