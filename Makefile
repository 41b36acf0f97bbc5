# Each target does all the set-up it needs, once: see scripts/setup.sh. VENV, PYTHON, WHEELS and TORCH may be set.
VENV ?= .venv
export VENV

.PHONY: help setup demo test coverage lint doctor docs reference benchmarks clean

help:
	@echo "make demo     set up, then watch the simulated hand open doors (DEMO='--episodes 2' passes options)"
	@echo "make test     set up, then run all tests (TEST='-k limiter' passes options)"
	@echo "make coverage as test, and say how much of the package the tests reach"
	@echo "make lint     set up, then ruff and mypy"
	@echo "make docs     set up, then build the pages as a site, in build/docs/site"
	@echo "make reference  set up, then make the reference pages of nodes and commands again"
	@echo "make doctor   set up, then say what was found on this machine"
	@echo "make benchmarks EXPERT=folder  set up, then a small Adroit table in minutes"
	@echo "make setup    only the set-up: $(VENV) with pinned dependencies, ROS 2, libraries for rendering"
	@echo "              (PYTHON=python3.12 makes it with that one; WHEELS=jazzy takes Jazzy's wheels; TORCH=without leaves torch out,"
	@echo "              and tests that need it are skipped; VENV=.venv_jazzy keeps it apart from another)"
	@echo "make clean    remove what was built, but not $(VENV)"

setup:
	@scripts/setup.sh

demo: setup
	@$(VENV)/bin/flow_policy demo $(DEMO)

test: setup
	@$(VENV)/bin/python -m pytest -n 4 --dist loadfile --max-worker-restart 0 $(TEST)

# Processes that tests start are not seen: the figure is that of the code that runs in the test processes themselves.
coverage: setup
	@$(VENV)/bin/python -m coverage erase
	@$(VENV)/bin/python -m coverage run --parallel-mode --source flow_policy_ros -m pytest $(TEST); code=$$?; \
	  $(VENV)/bin/python -m coverage combine -q && $(VENV)/bin/python -m coverage report --skip-covered --sort=cover | tail -n 25; exit $$code

lint: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy

docs: setup
	@$(VENV)/bin/python -c "import mkdocs, material" 2>/dev/null || \
	  $(VENV)/bin/python -m pip install -q --no-input -c "constraints/$$(cut -d' ' -f1 $(VENV)/.setup_stamp).txt" -r requirements/docs.txt
	@$(VENV)/bin/python scripts/build_docs.py

reference: setup
	@$(VENV)/bin/flow_policy params --out docs/reference.md
	@$(VENV)/bin/python -m flow_policy_ros.cli.command_reference --out docs/cli.md

doctor: setup
	@$(VENV)/bin/flow_policy doctor

# A small version of docs/benchmarks.md's table. EXPERT: the folder with door_expert.npz; more rows and cells by BENCHMARKS.
benchmarks: setup
	@test -n "$(EXPERT)" || { echo "error: give the folder with the published experts' weights: make benchmarks EXPERT=folder" >&2; exit 2; }
	@$(VENV)/bin/flow_policy bench adroit --out runs/benchmarks --expert "$(EXPERT)" --tasks door --demonstrations 10 \
	  --observations state --rows expert regression flow_10 flow_1 --seeds 0 --episodes 10 --training-steps 400 --minutes 30 $(BENCHMARKS)

clean:
	rm -rf build install log *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find flow_policy_ros launch scripts test benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
