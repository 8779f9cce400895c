# make run    start the proxy on 127.0.0.1:8890 (on the simulated Ollama if none answers)
# make test   everything: format, lint, types, import direction, tests on a real Ollama
# make fuzz   minutes of generated input, other ones each time; what is found is kept in .hypothesis and tried first
# make bench  the proxy beside nginx (Debian: apt-get install nginx-light) in front of the same upstream
# make bench-check  the same, and fail if it got worse than benchmarks/ratios.json says
# make profile  where the CPU time of the proxy goes
# make soak   mixed clients for long in front of an Ollama with which things go wrong; SOAK="--requests 1000000" for longer
# make docs   write docs/configuration.md from the settings
# make clean  forget the virtual environment

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint docs fuzz bench bench-check profile soak clean

run: $(VENV)/.run
	$(BIN)/swapper-proxy serve --config config/swapper_config.yaml --simulate-if-unreachable

test: $(VENV)/.test lint
	$(BIN)/python -m tests.real.tools
	$(BIN)/python -m tests.real.install
	$(BIN)/python -m pytest tests/core -q --cov=swapper_proxy.core --cov-branch --cov-fail-under=100
	$(BIN)/python -m pytest tests --ignore=tests/core -q --numprocesses=3 --dist=loadfile  # most of the time they wait

fuzz: $(VENV)/.test
	$(BIN)/python -m pytest tests/fuzz tests/e2e/test_openapi.py -q -k "fuzz or generated" --hypothesis-profile=fuzz --numprocesses=2

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.run
	$(BIN)/python -m swapper_proxy.config.reference > docs/configuration.md

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.relay

bench-check: $(VENV)/.test
	$(BIN)/python -m benchmarks.relay --check benchmarks/ratios.json

soak: $(VENV)/.test
	$(BIN)/python -m benchmarks.soak $(SOAK)

profile: $(VENV)/.bench
	$(BIN)/python -m benchmarks.profile

clean:
	rm -rf $(VENV)

$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@ $(VENV)/.run

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@
