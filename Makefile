# Two commands set themselves up on a machine that has Python 3.11, make and pip:
#   make demo    from nothing to a fingerprint, verdicts, a figure and a results file
#   make test    style, types and all tests
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
READY  := $(VENV)/.ready
SERVERS := .venv-servers

.PHONY: demo test check data clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(VENV)/bin/metav bench warfarin

test: check data $(SERVERS)/.ready
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/deptry src

# FashionMNIST, from Debian's archive where there is one; elsewhere torchvision downloads it when a test asks for it.
data:
	@test -d /usr/share/datasets/fashion-mnist || test -n "$$METAV_DATA" || ! command -v apt-get >/dev/null || \
	  apt-get install --yes --quiet dataset-fashion-mnist || \
	  { apt-get update --quiet && apt-get install --yes --quiet dataset-fashion-mnist; } || \
	  echo "FashionMNIST was not installed from the Debian archive; torchvision will download it."

# Made again only when the dependencies change, with all that both commands need. `python -m venv` needs ensurepip,
# which some systems split off; there pip brings virtualenv instead.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV) || { \
	  $(PYTHON) -m pip install --quiet --target $(VENV)-bootstrap virtualenv && \
	  PYTHONPATH=$(VENV)-bootstrap $(PYTHON) -m virtualenv --clear $(VENV); }
	$(VENV)/bin/python -m pip install --quiet --editable '.[warfarin,fashion,skin,http,onnx,dev]'
	touch $@

# Inference servers for the tests, apart: they pin versions of what metav uses too.
$(SERVERS)/.ready: $(READY)
	$(PYTHON) -m venv $(SERVERS) || PYTHONPATH=$(VENV)-bootstrap $(PYTHON) -m virtualenv --clear $(SERVERS)
	$(SERVERS)/bin/python -m pip install --quiet 'mlserver==1.7.1' 'mlflow==3.17.*' onnxruntime
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-bootstrap $(SERVERS) metav-results
