# The verbs of this repository. `make demo` and `make test` work on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# xdist workers; tests are independent of each other. One more than two cores, for many tests wait for a disk
# or a node. `worksteal`: who is done takes over from others; dealt out beforehand, the last minutes had one at work.
WORKERS ?= 3
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q
# Of `make simulate`: how many worlds, and the first of them.
SEEDS ?= 100
FIRST ?= 1
# Of `make hostile`: how many messages in memory (a twentieth of them goes to real nodes), and the seed.
MESSAGES ?= 1000000
HOSTILE_SEED ?= 1
# Of `make power-loss`: how often the power is cut.
CYCLES ?= 20

# Of `make chaos`: how long, how many nodes, and the seed; 0 = any.
MINUTES ?= 10
NODES ?= 3
SEED ?= 0

# Of `make simulate` and `make mutants`: how many run side by side.
PROCESSES ?= 2
# Scenario files of etcd's Raft library (its folder, or a copy of its `testdata` folders).
DIR ?= ../shared/conformance/etcd-raft

.PHONY: gc-under-load members stories demo test simulate mutants hostile power-loss chaos chaos-broken laws flips prove conformance check bench format coverage clean merge-story

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[node]'
	@touch $@

$(VENV)/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.test $(VENV)/.demo

# As pip does for what it installs; where Python may not write bytecode, each process would do it anew.
COMPILE = @$(BIN)/python -m compileall -q client node

demo: $(VENV)/.demo  ## the main job, on three nodes in a temporary folder
	$(COMPILE)
	@$(BIN)/python docs/examples/demo.py

test: $(VENV)/.test  ## the whole test suite
	$(COMPILE)
	$(PYTEST)

stories: $(VENV)/.test  ## long stories with real nodes: drains, layouts, full disks, fleets, merges; some minutes
	$(COMPILE)
	$(PYTEST) -m slow

conformance: $(VENV)/.test  ## the Raft core against the scenario files in DIR
	$(BIN)/python -m tests.conformance.raft.run $(DIR)

coverage: $(VENV)/.test  ## the test suite with line coverage of client/ and node/
	$(COMPILE)
	$(PYTEST) --cov --cov-report=term-missing:skip-covered

simulate: $(VENV)/.test  ## the replicated log in SEEDS worlds where everything fails, by seed
	$(BIN)/python -m tests.simulation.cluster.run --seeds $(SEEDS) --first $(FIRST) --processes $(PROCESSES)

gc-under-load: $(VENV)/.test  ## commits, deletions and garbage collection for MINUTES: no commit fails, the space comes back
	@$(BIN)/python -m benchmarks.garbage_under_load $(MINUTES)

.PHONY: simulate-chunks mutants-chunks

simulate-chunks: $(VENV)/.test  ## sealing, sessions, repair, drains and gc in SEEDS worlds where everything fails, by seed
	$(BIN)/python -m tests.simulation.chunks.run --seeds $(SEEDS) --first $(FIRST) --processes $(PROCESSES)

mutants-chunks: $(VENV)/.test  ## which seeded defects of the chunk plane these worlds find
	$(BIN)/python -m tests.simulation.chunks.defects

hostile: $(VENV)/.test  ## MESSAGES malformed and hostile messages of peers: no crash, no change
	$(BIN)/python -m tests.hostile.run --messages $(MESSAGES) --seed $(HOSTILE_SEED)
	MESSAGES=$(MESSAGES) HOSTILE_SEED=$(HOSTILE_SEED) $(BIN)/python -m pytest -q -s tests/hostile -k real_nodes

power-loss: $(VENV)/.test  ## cut the power of real nodes CYCLES times under load (needs root)
	$(BIN)/python -m tests.chaos.power_loss --cycles $(CYCLES) --seed $(FIRST)

chaos: $(VENV)/.test  ## real nodes killed, paused, cut off and damaged for MINUTES, under load; all histories checked
	$(COMPILE)
	$(BIN)/python -m tests.chaos.run --minutes $(MINUTES) --nodes $(NODES) --seed $(SEED)

members: $(VENV)/.test  ## nodes killed, added and drained for MINUTES under commits; all copies counted on the disks
	$(COMPILE)
	MEMBERS_MINUTES=$(MINUTES) MEMBERS_SEED=$(FIRST) $(BIN)/python -m pytest -q -s -m slow tests/end_to_end/test_members_under_commits.py

chaos-broken: $(VENV)/.test  ## that `make chaos` finds nodes which are broken on purpose
	CHAOS_BROKEN=1 $(BIN)/python -m pytest -q -s tests/chaos/test_broken.py

laws: $(VENV)/.test  ## what a cluster promises, at full size: kills, partitions, 10,000 entries missed, 512 MiB at once
	LAWS_KILLS=10 LAWS_ENTRIES=10000 LAWS_UPLOAD_MIB=512 $(BIN)/python -m pytest -q -s tests/end_to_end/test_cluster_laws.py
	LAWS_UPLOAD_MIB=512 $(BIN)/python -m pytest -q -s tests/end_to_end/test_sealing.py -k killed

flips: $(VENV)/.test  ## 200 single flipped bits in the files of a node: noticed, or without effect
	BIT_FLIPS=200 $(BIN)/python -m pytest -q -s tests/end_to_end/test_stopped_node_flips.py tests/unit/node/storage/test_bit_flips.py

merge-story: $(VENV)/.test  ## MiniLM fine-tuned on two branches (installs torch), merged by every strategy, against NumPy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers
	$(BIN)/python -m tests.support.merge_story

mutants: $(VENV)/.test  ## which seeded defects of the replicated log the tests find; takes some 20 minutes
	$(BIN)/python -m tests.mutation.run --processes $(PROCESSES) --conformance $(DIR)

prove: simulate simulate-chunks hostile power-loss chaos chaos-broken laws flips  ## all of these, for a release: an hour or so, as root

check: $(VENV)/.dev  ## format, lint, types, layers, protos, the compose file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/lint-imports --no-cache
	cd protos && PATH=$(abspath $(BIN)):$$PATH buf lint
	cd protos && PATH=$(abspath $(BIN)):$$PATH $(abspath $(BIN))/python breaking.py
	cd protos && PATH=$(abspath $(BIN)):$$PATH $(abspath $(BIN))/python generate.py --check
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.test  ## claims about speed, as ratios against limits and peers of the same run
	$(BIN)/python -m benchmarks.embedded_store
	$(BIN)/python -m benchmarks.many_versions
	$(BIN)/python -m benchmarks.served_node

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis htmlcov .coverage*
