# Everything from a fresh checkout; the first target that needs Python makes .venv once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
WEB := $(VENV)/.installed-web
DEMO := demo
export OMP_WAIT_POLICY := PASSIVE

.PHONY: setup tools test faults lint format bench demo web browser doctor clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    install, make a small data set, train, evaluate, detect (about 7 minutes on 2 cores)"
	@echo "make web     install, serve a local page to try a model on (OPTIONS=\"--checkpoint best.ckpt\")"
	@echo "make test    install, run all tests (PYTEST_OPTIONS=\"-k psds\": some of them)"
	@echo "make browser install Chromium, which the tests of pages need"
	@echo "make doctor  what this machine has and what is missing (OPTIONS=\"--data_dir DIR\")"
	@echo "make faults  see that the tests catch deliberate faults in a copy of the code (about 3 minutes)"
	@echo "make lint    ruff, format check, mypy"
	@echo "make bench   run all benchmarks (over two hours, most of it trainings)"

setup: $(RUN)

$(RUN): requirements.txt
	@$(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 14) else \
		'Python 3.10 to 3.14 is needed, this is %d.%d: make PYTHON=python3.12 ...' % v)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $(RUN)

$(DEV): requirements-dev.txt requirements-web.txt $(RUN)
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt
	touch $(DEV)

tools: $(DEV)

test: $(DEV)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(PYTEST_OPTIONS)

browser:
	@.ci/browser $(PYTHON)

doctor:
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) doctor.py $(OPTIONS)

faults: $(DEV)
	$(BIN)/python tests/deliberate_faults.py

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV) $(DEMO)/trained/best.ckpt
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

demo: $(RUN)
	$(BIN)/python demo.py --out $(DEMO)

$(WEB): requirements-web.txt $(RUN)
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-web.txt
	touch $(WEB)

web: $(WEB)
	$(BIN)/python web.py $(OPTIONS)

$(DEMO)/trained/best.ckpt:
	$(MAKE) demo

clean:
	rm -rf $(VENV) $(DEMO)
