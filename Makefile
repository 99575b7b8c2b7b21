# Two commands set themselves up on a machine that has Python 3.11, make and pip:
#   make demo    from nothing to a fingerprint, verdicts, a figure and a results file
#   make test    style, types and all tests
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
READY  := $(VENV)/.ready

.PHONY: demo test check clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(VENV)/bin/metav bench warfarin

test: check
	$(VENV)/bin/python -m pytest

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/deptry src

# Made again only when the dependencies change, with all that both commands need. `python -m venv` needs ensurepip,
# which some systems split off; there pip brings virtualenv instead.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV) || { \
	  $(PYTHON) -m pip install --quiet --target $(VENV)-bootstrap virtualenv && \
	  PYTHONPATH=$(VENV)-bootstrap $(PYTHON) -m virtualenv --clear $(VENV); }
	$(VENV)/bin/python -m pip install --quiet --editable '.[warfarin,skin,dev]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-bootstrap metav-results
