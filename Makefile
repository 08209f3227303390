# The project's commands. Each target sets up what it needs: .venv from the locked requirements.
VENV := .venv
BIN := $(VENV)/bin
SERVER := $(VENV)/.runtime
STAMP := $(VENV)/.dev
# A set-up that was interrupted, or whose Python no longer exists, starts afresh.
BROKEN := $(wildcard $(VENV)/.unfinished) $(if $(realpath $(BIN)/python),,anew)

.PHONY: help setup run test quick bare lint types layers structure cover lock dist clean anew chaos fleet bench bench-peers contests compare attack conversations profile \
  fuzz mutants portable pythons image image-test drain-test film browser-numbers documents http-contract web gallery

help:            ## list the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{sub(/:.*/, "", $$1); printf "  make %-16s %s\n", $$1, $$2}'

run: $(SERVER)   ## start the server and print the URL to open
	@$(BIN)/eclipse-ws run --profile dev

setup: $(STAMP)  ## install what the other targets need, including the developers' tools

$(SERVER): requirements/build.txt requirements/runtime.txt setup.py pyproject.toml $(BROKEN)
	@sh scripts/setup

$(STAMP): requirements/dev.txt $(SERVER)
	@sh scripts/setup dev

test: $(STAMP)   ## lint, types, layers, then every test with coverage (TESTS=path: only these; SEED=n: repeat an order)
	@$(BIN)/python -m scripts.test $(TESTS)

quick: $(STAMP)  ## in less than a minute: linters, types, and the tests that start no browser, cluster or fuzzer
	@$(BIN)/python -m scripts.test --quick

bare:            ## clone, run and test like a newcomer, with only Python, make and git (SHORT=1: some of the tests)
	@$(or $(PYTHON),python3) scripts/bare.py $(if $(SHORT),--short)

lint: $(STAMP)   ## ruff
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP)  ## mypy --strict
	@$(BIN)/mypy

layers: $(STAMP) ## check that imports point down and have no cycles
	@$(BIN)/lint-imports --no-logo

structure: $(STAMP) ## count the structural limits: entries, cycles, the backend contract, lines, settings
	@$(BIN)/python -m scripts.structure

chaos: $(STAMP)  ## inject faults into real processes on Redis, then on PostgreSQL, a minute each, into docs/chaos.md
	@$(BIN)/python -m tests.chaos --document docs/chaos.md

fleet: $(STAMP)  ## nodes next to old services, real-world applications and Redis providers, into docs/fleet.md (three minutes)
	@$(BIN)/python -m tests.fleet --document docs/fleet.md

cover: $(STAMP)  ## the coverage of the last test run as HTML
	@$(BIN)/coverage html && echo "htmlcov/index.html"

bench: $(STAMP) $(VENV)/.bench ## compare this server with others, into docs/performance.md (QUICK=1: a short run that changes nothing)
	@$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

bench-peers: $(STAMP) ## build and install the other servers that no package manager has ready: Centrifugo, uWebSockets.js (as root)
	@$(BIN)/python -m benchmarks.prepare

contests: $(STAMP) ## what clients miss by cut connections and restarts, beside two other servers, into docs/contests.md (SHORT=1)
	@$(BIN)/python -m benchmarks.contests $(if $(SHORT),--short) $(ARGS)

compare: $(STAMP) ## compare this tree's speed with that of BASE=revision, in turns (ARGS="--runs 5 --only fan-out")
	@$(BIN)/python -m benchmarks.compare $(or $(BASE),HEAD) $(ARGS)

attack: $(STAMP) ## 100 honest pairs against 4,000 attackers, then against 1,000 at once, then 10,000 killed sockets (four minutes)
	@$(BIN)/python -m benchmarks.attack $(ARGS) && $(BIN)/python -m benchmarks.attack --kinds herd --over plain --p99 25 \
	  && $(BIN)/python -m tests.attacks.kills

conversations: $(STAMP) $(VENV)/.bench ## many chats on one session, an inbox, presence and reports, while nodes are killed (half an hour)
	@for part in conversations inbox presence reports; do $(BIN)/python -m benchmarks.$$part || exit 1; done

profile: $(STAMP) $(VENV)/.bench ## flame graphs of the hot paths under load, into artefacts/
	@$(BIN)/python -m benchmarks.profile $(ARGS)

portable: $(STAMP) ## the suites that depend on the operating system, as macOS and the BSDs run them (SHORT=1: some)
	@SHORT=$(SHORT) bash scripts/portable

pythons: $(STAMP) ## the tests on each supported Python, or on VERSIONS="3.13 3.14" (about five minutes each)
	@bash scripts/pythons $(VERSIONS)

fuzz: $(STAMP)   ## fuzz frames, commands, cursors, tokens, bodies, upgrades and Redis events, a minute each (SECONDS=n)
	@$(BIN)/python -m scripts.fuzz --seconds $(or $(SECONDS),60)

mutants: $(STAMP) $(VENV)/.mutants ## make small mistakes and list those that no test notices (SHARE=0.05, SEED=n, MODULE=websocket.*, LUA=1)
	@$(BIN)/python -m scripts.mutants $(if $(LUA),--lua)

http-contract: $(STAMP) ## check the HTTP routes against their document with schemathesis
	@bash scripts/http-contract

$(VENV)/.bench $(VENV)/.mutants: $(VENV)/.%: requirements/%.txt $(STAMP)
	@sh scripts/setup $*

# A locked version stays as long as its range allows it; UPGRADE=1 takes the newest.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-header --no-annotate
lock: $(STAMP)   ## update requirements/*.txt from pyproject.toml's ranges (UPGRADE=1: to the newest versions)
	@$(LOCK) $(if $(UPGRADE),--upgrade) --extra dev --extra speed pyproject.toml -o requirements/dev.txt
	@$(LOCK) -c requirements/dev.txt pyproject.toml -o requirements/runtime.txt
	@for extra in bench mutants; do \
	  $(LOCK) $(if $(UPGRADE),--upgrade) -c requirements/dev.txt --extra $$extra pyproject.toml -o requirements/$$extra.txt \
	  || exit 1; done
	@echo 'setuptools>=77,<82' | $(LOCK) -c requirements/dev.txt - -o requirements/build.txt

dist: $(STAMP)   ## build the wheel and the source archive into dist/
	@rm -rf build dist
	@$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python && ls -1 dist

image:           ## build the image eclipse-ws with its labels (ENGINE=podman: with another engine)
	@labels=$$($(or $(PYTHON),python3) -m scripts.image_labels) && $(or $(ENGINE),docker) build $$labels --tag eclipse-ws .

image-test: $(STAMP) ## build the image, start it as a platform would, and test it (as root)
	@bash scripts/image-test

drain-test: $(STAMP) ## stop two nodes, restart them ten times and kill them, under load
	@for mode in sigterm rolling kill; do $(BIN)/python -m benchmarks.drain --mode $$mode || exit 1; done

film: $(STAMP) $(VENV)/.bench ## record docs/demo.gif, the README's film: two browsers, and a server that is killed
	@$(BIN)/python -m tests.browser.film docs/demo.gif

gallery: $(STAMP) ## screenshots of every state of the widget in each look, in artefacts/gallery/index.html
	@$(BIN)/python -m tests.browser.gallery

browser-numbers: $(STAMP) ## measure the widget: 20 cuts, the opening of the panel, 1,000 clients that reconnect
	@for part in tests.browser.cuts tests.browser.opening tests.js.herd; do $(BIN)/python -m $$part || exit 1; done

web: web/node_modules/.package-lock.json ## build the browser code from web/src into eclipse_ws/static (needs npm)
	@cd web && npm run --silent types && npm run --silent build

web/node_modules/.package-lock.json: web/package-lock.json
	@cd web && npm ci --silent

documents: $(STAMP) ## generate docs/asyncapi.yaml, docs/openapi.yaml, their pages, settings.md and metrics.md from the code
	@$(BIN)/python -m scripts.documents

clean:           ## remove what was built, but keep settings, secrets and messages
	@rm -rf $(VENV) .venv.lock build dist *.egg-info .coverage* htmlcov artefacts fuzz-failure* .mypy_cache .ruff_cache \
	  .pytest_cache .hypothesis .import_linter_cache .schemathesis web/dist examples/nextjs/.next examples/nextjs/next-env.d.ts
	@rm -rf $(foreach name,__pycache__ node_modules,$(wildcard $(name) */$(name) */*/$(name) */*/*/$(name)))
	@set -- $(wildcard .env .eclipse-dev-secrets *.db *.sqlite3); [ $$# = 0 ] || echo "Kept: $$*"
