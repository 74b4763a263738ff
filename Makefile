# Needs Python >= 3.11 and pip only. `make demo` shows the tool at work, `make test` proves it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow test-cluster test-llama-cpp test-kill soak fuzz hostile catalogue lint bench messages pictures clean

# pip is the last thing that a venv gets: one that could not be made whole (Debian without python3-venv) has none, and is made anew.
# One that uv made has none either, but is somebody's work.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit("lora-tui needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another one with PYTHON=, such as: make demo PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@! grep -qs '^uv = ' $(VENV)/pyvenv.cfg || { echo "$(VENV) was made by uv, without pip. Put one into it (uv pip install pip), or take it away." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.installed: $(BIN)/pip pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	@if [ -t 0 ] && [ -t 2 ]; then $(BIN)/lora-tui --demo; else $(BIN)/lora-tui --demo --yes --resume auto; fi

test: $(VENV)/.installed-dev
	$(BIN)/pytest -q -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.installed-dev
	$(BIN)/pytest -q -m slow --timeout 3600 --ignore tests/cluster

# Several processes, two machines as network namespaces with the link cut, a real Slurm where it is installed (as root:
# apt-get install slurmctld slurmd slurm-client munge iproute2). About twenty minutes on two cores.
test-cluster: $(VENV)/.installed-dev
	$(BIN)/pip install -q -c constraints.txt -e '.[deepspeed]'
	# Else the first run compiles it in the time that a test gives it, and one that is killed meanwhile leaves a lock that all others wait for.
	$(BIN)/python -c 'from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder; ShareMemCommBuilder().load()'
	$(BIN)/pytest -q -m 'slow or not slow' tests/cluster --timeout 600

# What llama.cpp computes with exported files. Builds llama-cpp-python first: about fifteen minutes of one core, once.
test-llama-cpp: $(VENV)/.installed-dev
	$(BIN)/pip install -q -c constraints.txt -e '.[llama-cpp]'
	$(BIN)/pytest -q tests/engine/export/test_llama_cpp.py

# Real runs killed at random moments and continued; figures as in docs/durability.md. KILLS=20 for a shorter one.
KILLS ?= 200
test-kill: $(VENV)/.installed-dev
	$(BIN)/python -m tests.faults.kills --kills $(KILLS)

# The same for a time instead of a number.
MINUTES ?= 60
soak: $(VENV)/.installed-dev
	$(BIN)/python -m tests.faults.kills --minutes $(MINUTES) --seed 2

# The table of docs/hostile.md, from the real command on real hostile files.
hostile: $(VENV)/.installed-dev
	COLUMNS=200 $(BIN)/python -m tests.faults.hostile > docs/hostile.md

# Mutated bytes into every reader of untrusted files, for ten minutes.
FUZZ_MINUTES ?= 10
fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.faults.fuzz --minutes $(FUZZ_MINUTES)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(BIN)/python -m tests.bench

# Every way in which continuing goes wrong, made to happen here and with stock Trainer; writes docs/resuming.md.
catalogue: $(VENV)/.installed-dev
	$(BIN)/python -m tests.catalogue

# After changing user-facing text: collect it, merge it into the catalogues, compile them.
messages: $(VENV)/.installed-dev
	$(BIN)/pybabel -q extract -k n_:1,2 -k _field:2 -k N_ --no-location --sort-output --project lora-tui -o tui/locale/lora-tui.pot engine tui
	$(BIN)/pybabel -q update --no-fuzzy-matching --ignore-obsolete -D lora-tui -i tui/locale/lora-tui.pot -d tui/locale -l zh_CN
	$(BIN)/pybabel -q compile -D lora-tui -d tui/locale

# The README's pictures, from the real app at work, and the chart of docs/speed.md from its table.
pictures: $(VENV)/.installed
	$(BIN)/python docs/make_pictures.py
	$(BIN)/python docs/make_chart.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
