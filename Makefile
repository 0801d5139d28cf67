# The only interface to this repository: `make help` lists the targets. A recipe calls one command; logic is Python.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TARGET ?= pod

.DEFAULT_GOAL := help
.PHONY: browser chaos demo fuzz help install install-bulk run run-serverless smoke test lint types format bench bench-health bench-memory bench-gpu bench-host bench-mixed bench-parity bench-text-batch bench-bulk bench-cache bench-client bench-int8 bench-scaling docker-build image-check docs-check metrics-page prometheus redis settings-page trace-example clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# Each stamp stands for a set of extras; a changed pyproject or constraints file makes it stale.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e '.[$(subst +,$(comma),$*)]'
	@touch $@

comma := ,

# The client is a distribution of its own.
$(VENV)/installed-client: client/pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e './client[parquet,images,otel]'
	@touch $@

$(VENV)/installed-all: $(VENV)/installed-dev $(VENV)/installed-client
	@touch $@

install: $(VENV)/installed-pod+cpu ## prepare .venv with what the pod needs

install-bulk: $(VENV)/installed-bulk+lance+cpu $(VENV)/installed-client ## prepare .venv with what `python -m bulk` needs

run: install ## start the pod on 127.0.0.1:$PORT (8000), with the bundled model if the real one cannot be had
	@$(BIN)/python -m tools.run_local pod

run-serverless: $(VENV)/installed-serverless+cpu ## start the handler on the SDK's local server at 127.0.0.1:$SERVERLESS_PORT (8001)
	@$(BIN)/python -m tools.run_local serverless

smoke: $(VENV)/installed-client ## check a running target: make smoke TARGET=pod (default) or TARGET=serverless
	@$(BIN)/clip-embed smoke --target $(TARGET)

demo: $(VENV)/installed-pod+cpu+demo $(VENV)/installed-client ## find scenes of a video by words, in a browser: VIDEO=file DEMO_PORT=8080 DEMO_OPEN=0
	@$(BIN)/python -m tools.demo

# More than there are cores: half of a test's time is waiting, for a pod to start or a pause to end, and beside others who
# want the processor whoever asks more often gets more of it.
TEST_PROCESSES ?= 5

# In the order of tests/conftest.py: by number, the files with the fewest and longest tests would come last.
test: $(VENV)/installed-all lint types ## lint, types and all tests
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed-all ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-all ## mypy, strict
	$(BIN)/mypy

format: $(VENV)/installed-all ## let ruff rewrite what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/installed-dev ## one table: naive way, engine alone, served, start-up (full-size model, ten minutes)
	$(BIN)/python -m bench.run

bench-memory: $(VENV)/installed-dev ## does memory stay level over 20,000 requests of mixed sizes? (full-size model, ten minutes)
	$(BIN)/python -m bench.memory --requests 20000

bench-gpu: $(VENV)/installed-dev ## one CUDA device: tests, rates, latency, parity, a pod on it (full-size model, three quarters of an hour)
	$(BIN)/python -m bench.gpu

bench-host: $(VENV)/installed-dev ## what a pod costs its host when the model costs nothing: processor ms per item, by stage
	$(BIN)/python -m bench.host

bench-mixed: $(VENV)/installed-dev ## images and texts at once, and one slow host beside quick ones (full-size model, minutes)
	$(BIN)/python -m bench.mixed

bench-text-batch: $(VENV)/installed-dev ## texts in batches beside texts one by one (full-size model, a minute)
	$(BIN)/python -m bench.text_batch

bench-cache: $(VENV)/installed-dev ## what comes again, what is kept, and clients over their rate (full-size model, a minute)
	$(BIN)/python -m bench.cache

bench-bulk: $(VENV)/installed-dev ## 20,000 images of ten hosts through Ray Data, beside the pod's own batches (minutes)
	$(BIN)/python -m bench.bulk

bench-client: $(VENV)/installed-all ## 200,000 images through both clients: does their memory stay level, and how fast are they? (half an hour)
	$(BIN)/python -m bench.client

bench-int8: $(VENV)/installed-dev+peers ## int8 beside other ways to it, float32 and LitServe (full-size model, a quarter of an hour)
	$(BIN)/python -m bench.int8

bench-parity: $(VENV)/installed-dev ## six CLIPs in full size beside transformers, every engine and numeric type (half an hour)
	$(BIN)/python -m bench.parity

bench-scaling: $(VENV)/installed-all ## pods, serverless, both, autoscaled: waits, losses and cost of a day, simulated (a minute)
	$(BIN)/python -m bench.scaling

bench-health: $(VENV)/installed-dev ## does /health answer while batches of 16 run? (full-size model, about a minute)
	$(BIN)/python -m bench.health

docker-build: ## build both images with Docker: TORCH=cuda|cu126|cpu MODEL=hub-id IMAGE_PREFIX=registry/name/
	@$(PYTHON) -m tools.docker_build

image-check: $(VENV)/installed-dev ## build both images without Docker and try them (root, buildah, debootstrap; minutes)
	@$(BIN)/python -m tools.image_check

chaos: $(VENV)/installed-dev ## what a pod and a handler survive: overload, hangs, kills, pauses, poison (about twelve minutes)
	$(BIN)/python -m tools.chaos

fuzz: $(VENV)/installed-dev ## 10,000 mutated images and 10,000 mutated requests
	$(BIN)/python -m tools.fuzz

settings-page: $(VENV)/installed-all ## write docs/settings.md from the settings' models
	@$(BIN)/python -m tools.settings_page

metrics-page: $(VENV)/installed-all ## write docs/metrics.md from the metrics' definitions
	@$(BIN)/python -m tools.metrics_page

trace-example: $(VENV)/installed-all ## print one trace: a call whose pod is full, and which a serverless worker answers
	@$(BIN)/python -m tools.trace_example

browser: ## the Chromium of the tests, from Debian; without it they are skipped (root)
	apt-get update --quiet
	apt-get install --yes --quiet --no-install-recommends chromium

prometheus: ## the Prometheus and promtool of the tests, from Debian; without them they are skipped (root)
	apt-get update --quiet
	apt-get install --yes --quiet --no-install-recommends prometheus

redis: ## the Redis of the tests, from Debian; without it they are skipped (root)
	apt-get update --quiet
	apt-get install --yes --quiet --no-install-recommends redis-server

docs-check: $(VENV)/installed-all ## run every command of the documents in a fresh clone of what is committed (minutes)
	@$(BIN)/python -m tools.docs_check

clean: ## remove .venv and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info client/build client/src/*.egg-info
