# `make demo` and `make test` set up what they need in .venv, and reuse it while it is up to date.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
SOURCE := nbs tests apps docs
# the absolute form of a path; make's own abspath splits at spaces
absolute = $(if $(1),$(shell cd "$(1)" 2>/dev/null && pwd || echo "$(1)"))
export HARKD_DATA      := $(call absolute,$(HARKD_DATA))
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE  ?= 1

.PHONY: help demo test lint format lab explore readme docs bench clean
help:
	@echo "make demo     the whole pipeline on real recordings: distil, explain, export (a few minutes)"
	@echo "make test     linter, chapters and tests; HARKD_DATA=DIR adds those that need downloaded data sets"
	@echo "make lab      JupyterLab, opened on the index of the chapters"
	@echo "make explore  predictions of the newest run (RUN=runs/x: of that one) on a page in the browser"
	@echo "make format   lay out and fix the source with ruff"
	@echo "make lint     check the source with ruff, change nothing"
	@echo "make readme   README.md and RESULTS.md from their notebooks"
	@echo "make docs     the documentation site, in _docs/"
	@echo "make bench    latency, stream and microcontroller measurements of finished runs"

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

# every step runs, whatever the steps before it gave
test: $(VENV)/.all
	@failed=; \
	step() { \
	    name=$$1; shift; printf '\n== %s ==\n' "$$name"; \
	    if "$$@"; then echo "== $$name passed"; else echo "== $$name FAILED"; failed="$$failed $$name"; fi; \
	}; \
	step lint $(MAKE) --no-print-directory lint; \
	step chapters $(BIN)/nbdev_test --n_workers 2 --timing --do_print; \
	step pytest env IN_TEST=1 $(BIN)/python -m pytest -q -rs -n 2 --dist loadfile tests; \
	echo; if [ -n "$$failed" ]; then echo "make test FAILED:$$failed"; exit 1; fi; echo "make test passed: lint, chapters, pytest"

lint: $(VENV)/.all
	@$(BIN)/ruff check $(SOURCE) && $(BIN)/ruff check --isolated --select F821 harkd; found=$$?; \
	$(BIN)/ruff format --check $(SOURCE) && exit $$found

format: $(VENV)/.all
	$(BIN)/ruff check --fix-only $(SOURCE)
	$(BIN)/ruff format $(SOURCE)

lab: $(VENV)/.all
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" nbs/index.ipynb

explore: $(VENV)/.all
	$(BIN)/harkd explore $(if $(RUN),"$(RUN)")

readme: $(VENV)/.all
	$(BIN)/python -m docs.pages

docs: $(VENV)/.all
	$(BIN)/python -m docs.build

bench: $(VENV)/.all
	$(BIN)/python -m tests.bench_deploy \
	    $(if $(STUDENT),--student "$(call absolute,$(STUDENT))") \
	    $(if $(REFERENCE),--reference "$(call absolute,$(REFERENCE))") \
	    $(if $(WINDOWED),--windowed "$(call absolute,$(WINDOWED))")

clean:
	rm -rf runs build dist _docs *.egg-info .pytest_cache .ruff_cache .hypothesis test-artefacts
