# The project's habits. Each target sets up what it needs: .venv from the locked requirements.
VENV := .venv
BIN := $(VENV)/bin
SERVER := $(VENV)/.runtime
STAMP := $(VENV)/.dev
# A set-up that was interrupted, or whose Python has gone, begins anew.
BROKEN := $(wildcard $(VENV)/.unfinished) $(if $(realpath $(BIN)/python),,anew)

.PHONY: help setup run test quick bare lint types layers structure cover lock dist clean anew chaos fleet bench attack profile fuzz \
  mutants portable pythons image image-test drain-test film browser-numbers documents http-contract web gallery

help:            ## what can be made
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{sub(/:.*/, "", $$1); printf "  make %-16s %s\n", $$1, $$2}'

run: $(SERVER)   ## start the server and print where to click
	@$(BIN)/eclipse-ws run --profile dev

setup: $(STAMP)  ## install what the other targets need, the developers' tools among it

$(SERVER): requirements/build.txt requirements/runtime.txt setup.py pyproject.toml $(BROKEN)
	@sh scripts/setup

$(STAMP): requirements/dev.txt $(SERVER)
	@sh scripts/setup dev

test: $(STAMP)   ## lint, types, layers, then every test with its coverage (TESTS=path: these alone; SEED=n: an order again)
	@$(BIN)/python -m scripts.test $(TESTS)

quick: $(STAMP)  ## in under a minute: linters, types, and the tests that start no browser, cluster or fuzzer
	@$(BIN)/python -m scripts.test --quick

bare:            ## what a stranger does, with Python, make and git alone: clone, run, test (SHORT=1: a part of the tests)
	@$(or $(PYTHON),python3) scripts/bare.py $(if $(SHORT),--short)

lint: $(STAMP)   ## ruff
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP)  ## mypy --strict
	@$(BIN)/mypy

layers: $(STAMP) ## imports point down, and have no cycles
	@$(BIN)/lint-imports --no-logo

structure: $(STAMP) ## count what the structure is held to: entries, cycles, the backend contract, lines, settings
	@$(BIN)/python -m scripts.structure

chaos: $(STAMP)  ## faults put on real processes, a minute each, about ten in all
	@$(BIN)/python -m tests.chaos --document docs/chaos.md

fleet: $(STAMP)  ## old services beside the nodes, applications and Redis providers as they are: about three minutes
	@$(BIN)/python -m tests.fleet --document docs/fleet.md

cover: $(STAMP)  ## the suite with its coverage as HTML
	@$(BIN)/coverage html && echo "htmlcov/index.html"

bench: $(STAMP) $(VENV)/.bench ## this server and its peers, side by side, into docs/performance.md (QUICK=1: a short look)
	@$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

attack: $(STAMP) ## 100 honest pairs beside 4,000 attackers, plain and over TLS, then 10,000 killed sockets (about three minutes)
	@$(BIN)/python -m benchmarks.attack $(ARGS) && $(BIN)/python -m tests.attacks.kills

profile: $(STAMP) $(VENV)/.bench ## flame graphs of the hot paths under load, into artefacts/
	@$(BIN)/python -m benchmarks.profile $(ARGS)

portable: $(STAMP) ## the suites that touch the operating system, as macOS and the BSDs run them (SHORT=1: a part)
	@SHORT=$(SHORT) bash scripts/portable

pythons: $(STAMP) ## the suite on each supported Python, or on some: VERSIONS="3.13 3.14" (about five minutes each)
	@bash scripts/pythons $(VERSIONS)

fuzz: $(STAMP)   ## a minute each of hostile frames, commands, cursors, tokens, bodies and Redis events (SECONDS=n)
	@$(BIN)/python -m scripts.fuzz --seconds $(or $(SECONDS),60)

mutants: $(STAMP) $(VENV)/.mutants ## small mistakes, one at a time: which of them no test notices (SHARE=0.05, SEED=n, MODULE=websocket.*, LUA=1)
	@$(BIN)/python -m scripts.mutants $(if $(LUA),--lua)

http-contract: $(STAMP) ## what schemathesis finds when it holds the HTTP routes to their document
	@bash scripts/http-contract

$(VENV)/.bench $(VENV)/.mutants: $(VENV)/.%: requirements/%.txt $(STAMP)
	@sh scripts/setup $*

# What a range still allows stays at the version that is locked; UPGRADE=1 takes the newest.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-header --no-annotate
lock: $(STAMP)   ## renew requirements/*.txt from pyproject.toml's ranges (UPGRADE=1: to the newest)
	@$(LOCK) $(if $(UPGRADE),--upgrade) --extra dev --extra speed pyproject.toml -o requirements/dev.txt
	@$(LOCK) -c requirements/dev.txt pyproject.toml -o requirements/runtime.txt
	@for extra in bench mutants; do \
	  $(LOCK) $(if $(UPGRADE),--upgrade) -c requirements/dev.txt --extra $$extra pyproject.toml -o requirements/$$extra.txt \
	  || exit 1; done
	@echo 'setuptools>=77,<82' | $(LOCK) -c requirements/dev.txt - -o requirements/build.txt

dist: $(STAMP)   ## build the wheel and the source archive into dist/
	@rm -rf build dist
	@$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python && ls -1 dist

image:           ## build the image eclipse-ws with its labels (ENGINE=podman: not by docker)
	@labels=$$($(or $(PYTHON),python3) -m scripts.image_labels) && $(or $(ENGINE),docker) build $$labels --tag eclipse-ws .

image-test: $(STAMP) ## build the image for real, start it as a platform would, and try it (root)
	@bash scripts/image-test

drain-test: $(STAMP) ## a stop, ten rolling restarts and a crash of two nodes under load
	@for mode in sigterm rolling kill; do $(BIN)/python -m benchmarks.drain --mode $$mode || exit 1; done

film: $(STAMP) $(VENV)/.bench ## make docs/demo.gif, the README's film: two browsers, and a server that is killed
	@$(BIN)/python -m tests.browser.film docs/demo.gif

gallery: $(STAMP) ## screenshots of every state of the widget, in each look, into artefacts/gallery/index.html
	@$(BIN)/python -m tests.browser.gallery

browser-numbers: $(STAMP) ## the widget's numbers: 20 cuts, the panel's opening, 1,000 clients coming back
	@for part in tests.browser.cuts tests.browser.opening tests.js.herd; do $(BIN)/python -m $$part || exit 1; done

web: web/node_modules/.package-lock.json ## build what browsers load, from web/src into eclipse_ws/static (needs npm)
	@cd web && npm run --silent types && npm run --silent build

web/node_modules/.package-lock.json: web/package-lock.json
	@cd web && npm ci --silent

documents: $(STAMP) ## make from the code: docs/asyncapi.yaml, docs/openapi.yaml, their pages, settings.md, metrics.md
	@$(BIN)/python -m scripts.documents

clean:           ## remove what was made, but for settings, secrets and messages
	@rm -rf $(VENV) .venv.lock build dist *.egg-info .coverage* htmlcov artefacts fuzz-failure* .mypy_cache .ruff_cache \
	  .pytest_cache .hypothesis .import_linter_cache .schemathesis web/dist examples/nextjs/.next examples/nextjs/next-env.d.ts
	@rm -rf $(foreach name,__pycache__ node_modules,$(wildcard $(name) */$(name) */*/$(name) */*/*/$(name)))
	@set -- $(wildcard .env .eclipse-dev-secrets *.db *.sqlite3); [ $$# = 0 ] || echo "Kept: $$*"
