# The two commands: `make demo` and `make test`. Each sets up what it needs in .venv, and reuses it while it is up to date.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
NBS    := $(wildcard nbs/*.ipynb)
export HARKD_DATA      := $(if $(HARKD_DATA),$(abspath $(HARKD_DATA)))
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE  ?= 1

.PHONY: demo test lab explore readme bench clean help
help:
	@echo "make demo   the whole path on real recordings: distil, explain, export (a few minutes)"
	@echo "make test   every chapter and every test; HARKD_DATA=DIR adds those that need downloaded data sets"
	@echo "make lab    JupyterLab, ready"
	@echo "make explore   decisions of the newest run (RUN=runs/x: of that one) on a page in the browser"
	@echo "make readme README.md from nbs/index.ipynb"

# torch comes first and alone: whatever else asks for it is then satisfied by the pinned build
$(VENV)/.core: constraints.txt setup.py settings.ini
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -q $$(grep '^torch==' constraints.txt)
	$(PIP) -q -e .
	@touch $@

$(VENV)/.all: $(VENV)/.core
	$(PIP) -q -e '.[all]'
	@touch $@

demo: $(VENV)/.core
	$(BIN)/harkd demo

test: $(VENV)/.all
	$(BIN)/nbdev_test --n_workers 2 --timing --do_print
	IN_TEST=1 $(BIN)/python -m pytest -q -rs tests

lab: $(VENV)/.all
	$(BIN)/jupyter lab nbs

explore: $(VENV)/.all
	$(BIN)/harkd explore $(RUN)

readme: $(VENV)/.all
	cd nbs && ../$(BIN)/jupyter execute --inplace index.ipynb
	$(BIN)/nbdev_clean --fname nbs/index.ipynb
	$(BIN)/jupyter nbconvert --to markdown nbs/index.ipynb --output-dir . --output README --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_input_tags hide-input --TagRemovePreprocessor.remove_cell_tags remove-cell

bench: $(VENV)/.all
	$(BIN)/python -m tests.bench_deploy $(if $(STUDENT),--student $(abspath $(STUDENT))) $(if $(REFERENCE),--reference $(abspath $(REFERENCE))) $(if $(WINDOWED),--windowed $(abspath $(WINDOWED)))

clean:
	rm -rf runs build dist *.egg-info .pytest_cache .hypothesis test-artefacts
