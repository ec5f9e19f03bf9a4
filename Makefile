# make demo   a small simulated episode, transferred on this machine; prints where everything is
# make test   the whole suite
#             (one thread: tests are small, and libraries that start more than there are cores only wait)
# Both create the environment first if it is not there.

VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: demo test lint soak clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e ".[dev,llm,ray,quality,rerun]" -c constraints.txt
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "not soak"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m soak

clean:
	rm -rf $(VENV) build dist demo outputs
