# Everything from a fresh checkout; the first target that needs Python makes .venv once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo
DATA := $(DEMO)/data
export OMP_WAIT_POLICY := PASSIVE

.PHONY: setup test lint format bench demo clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    install, make a small data set, train, evaluate, detect (about 10 minutes on 2 cores)"
	@echo "make test    install, run all tests"
	@echo "make lint    ruff, format check, mypy"
	@echo "make bench   run all benchmarks"

setup: $(STAMP)

$(STAMP): requirements.txt requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt
	touch $(STAMP)

test: $(STAMP)
	$(BIN)/python -m pytest -q

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# A detector from scratch: the options differ from the published ones because the run is so short (README, "Demo").
MODEL := --model_name=fmn04 --seq_model_type=tf --seq_model_dim=104
SHORT := --batch_size=4 --accumulate_grad_batches=1 --n_epochs=6 --max_lr=3e-3 --lr_decay=0 --wavmix_p=0 --mixup_p=0
RUNS := --data_dir=$(DATA) --output_dir=$(DEMO) --overwrite --logger=csv

demo: $(STAMP)
	$(BIN)/python -m data_util.synthetic --out $(DATA) --train 480 --eval 96 --seed 0 --example $(DEMO)/example.wav
	$(BIN)/python ex_audioset_strong.py $(MODEL) --pretrained=scratch --evaluate $(RUNS) --experiment_name=untrained
	$(BIN)/python ex_audioset_strong.py $(MODEL) --pretrained=scratch $(SHORT) $(RUNS) --experiment_name=trained
	$(BIN)/python ex_audioset_strong.py --checkpoint=$(DEMO)/trained/best.ckpt --evaluate $(RUNS) --experiment_name=evaluated
	$(BIN)/python inference.py --checkpoint=$(DEMO)/trained/best.ckpt --audio_file=$(DEMO)/example.wav --out=$(DEMO) \
		--detection_thresholds 0.5 --plot --truth=$(DEMO)/example.tsv --overwrite
	@$(BIN)/python -m helpers.demo_summary $(DEMO)

clean:
	rm -rf $(VENV) $(DEMO)
