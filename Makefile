# make train   train the default network on real images, beside the same network through torch's own layers
# make test    every test that needs no GPU
# make lint    ruff and clang-format          make format   let them rewrite
# make verify  every op and gradient against float64, next to torch's own error
# make bench   ours beside torch's best and the machine's limits     make readme   its numbers into the documents
# make gpu-check   on a machine with a GPU: build, all tests on CUDA, sanitizer, benchmark table
#
# All but gpu-check work in .venv, which the first one creates. TORCH=... picks other versions, ARGS=... goes to the
# command. CUDA kernels are compiled for train, verify and bench where a GPU is; for test wherever nvcc is.

PYTHON ?= python3
TORCH ?= torch==2.14.1 torchvision==0.29.1
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh')

.PHONY: train test lint format verify bench readme gpu-check clean

train: $(VENV)/.built
	$(BIN)/python train.py --compare $(ARGS)

test: $(VENV)/.built-all
	$(BIN)/python -m pytest $(ARGS)

verify: $(VENV)/.built
	$(BIN)/python -m torch_manual_conv.verify $(ARGS)

bench: $(VENV)/.built
	$(BIN)/python -m torch_manual_conv.bench $(ARGS)

readme: $(VENV)/.built
	$(BIN)/python benchmarks/readme.py

# In the environment that is there: a GPU host brings its own torch and nvcc, and may have no network.
gpu-check:
	$(PYTHON) benchmarks/gpu_check $(ARGS)

lint: $(VENV)/.built-all
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(SOURCES)

format: $(VENV)/.built-all
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .
	$(BIN)/clang-format -i $(SOURCES)

# torch first: the build then finds it in the environment instead of fetching a second one for itself.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	@echo "installing $(TORCH) into $(VENV)"
	$(BIN)/python -m pip install --quiet $(TORCH)
	touch $@

# The build says what it compiles; then the package is installed as it lies here (editable), which finds all compiled.
$(VENV)/.built: $(VENV)/.torch $(SOURCES) setup.py pyproject.toml
	$(BIN)/python -m pip install --quiet 'setuptools>=77'
	$(BIN)/python setup.py --quiet build_ext --inplace
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[train,plots]'
	touch $@

$(VENV)/.built-all: $(VENV)/.built
	TMC_CUDA=$${TMC_CUDA:-1} $(BIN)/python setup.py --quiet build_ext --inplace
	TMC_CUDA=$${TMC_CUDA:-1} $(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[train,plots,test,lint]'
	touch $@

clean:
	rm -rf build dist *.egg-info torch_manual_conv/*.so
