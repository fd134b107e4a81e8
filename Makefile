# Two commands do all on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs
export HF_HUB_OFFLINE = 1

.PHONY: demo test test-vllm serve-env test-lmms lmms-env mutants lint docs clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

# a smaller study than nano-llava itself, on certify and report images of its own
DEMO := --trials 24 --samples 200 --fit-samples 1000 --report-samples 150 \
  --certify-offset 10000 --report-offset 10000

demo: $(VENV)/.installed  ## run a small study of the embedded model; leaves a report and a config
	$(BIN)/resprune-tune run nano-llava $(DEMO) --runs $(RUNS)

# one thread: the tests' models are so small that a second one only gets in the way
test: $(VENV)/.installed  ## run every test, without the network
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

serve-env:  ## on a CPU: .venv-vllm, with vLLM's CPU build and this clone (3.5 GB once, in the cache)
	$(PYTHON) scripts/vllm_cpu/make_env.py $(VENV)-vllm

test-vllm:  ## test the vLLM plug-in in that environment; skipped where it cannot be had
	@$(PYTHON) scripts/vllm_cpu/make_env.py $(VENV)-vllm || status=$$?; \
	if [ "$${status:-0}" = 3 ]; then echo "test-vllm skipped, see above"; \
	elif [ -n "$$status" ]; then exit "$$status"; \
	else $(VENV)-vllm/bin/python -m pytest tests/vllm; fi

lmms-env:  ## .venv-lmms, with lmms-eval and this clone (2.4 GB once, in the cache)
	$(PYTHON) scripts/lmms_eval/make_env.py $(VENV)-lmms

test-lmms:  ## test the lmms-eval plug-in in that environment; skipped where it cannot be had
	@$(PYTHON) scripts/lmms_eval/make_env.py $(VENV)-lmms || status=$$?; \
	if [ "$${status:-0}" = 3 ]; then echo "test-lmms skipped, see above"; \
	elif [ -n "$$status" ]; then exit "$$status"; \
	else OMP_NUM_THREADS=1 $(VENV)-lmms/bin/python -m pytest tests/lmms; fi

mutants: $(VENV)/.installed  ## break a line at a time on a copy: does a test notice? (slow)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants

lint: $(VENV)/.installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed  ## build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf site build *.egg-info
