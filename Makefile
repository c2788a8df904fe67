# make train    install once, then train AutoInt on the embedded default data
# make test     install once, then lint, type-check and test
# make setup    install only
# make train ARGS="ctr=dcnv2 data=frappe"
# make setup DEVICE=cuda            the CUDA packages
# make setup TORCH_INDEX=<url>      take torch from another package index (the CPU-only builds, say)

PYTHON ?= python3
VENV ?= .venv
DEVICE ?= cpu
ARGS ?= ctr=autoint
PYTEST ?= -n 2

TORCH := torch==2.13.0
FBGEMM_cpu := fbgemm-gpu-cpu==1.8.0
FBGEMM_cuda := fbgemm-gpu==1.8.0
FBGEMM := $(FBGEMM_$(DEVICE))
BIN := $(VENV)/bin
# One stamp per device: asking for the other one installs it.
STAMP := $(VENV)/installed-$(DEVICE)

.PHONY: setup train test lint clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(FBGEMM)" || { echo "DEVICE=$(DEVICE) is not known; use cpu or cuda" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v not in ((3, 11), (3, 12)) and f"Python 3.11 or 3.12 is needed, $(PYTHON) is {v[0]}.{v[1]}; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torchrec==1.8.0 $(FBGEMM)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]' 2>pip-warnings.txt || { cat pip-warnings.txt >&2; rm -f pip-warnings.txt; exit 1; }
	@# pip warns that torchrec asks for the CUDA build of fbgemm and an old torchmetrics; doctor knows better.
	@grep -v -e '^torchrec ' -e dependency pip-warnings.txt >&2 || true; rm -f pip-warnings.txt
	@rm -f $(VENV)/installed-*
	@touch $@

train: $(STAMP)
	$(BIN)/python -m pipelines.train $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One thread per worker: two workers with two threads each fight for two cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
