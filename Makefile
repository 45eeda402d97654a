PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: frontier run papers check test benchmarks clean

frontier: $(VENV)/.installed  ## learn a cascade from the embedded outputs and draw its frontier
	$(BIN)/python -m eval.frontier --topology a_g_r --out frontier

run: $(VENV)/.installed-models  ## run the cascade on embedded images, timed beside its networks alone
	$(BIN)/python -m eval.run --topology a_g_r

papers: $(VENV)/.installed-models  ## published tables with our numbers beside them, from what comes along
	$(BIN)/python -m eval.papers branchynet --out papers
	$(BIN)/python -m eval.papers adaptive --out papers
	$(BIN)/python -m eval.papers differentiable --out papers

check: $(VENV)/.installed-dev  ## the lane of every day: linters, types, and the tests that find most in a minute or two
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 -m "not slow"

test: $(VENV)/.installed-dev  ## linters, types and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

benchmarks: $(VENV)/.installed-dev  ## speed and memory, as ratios in one run; writes benchmarks/results/speed.csv
	$(BIN)/python -m benchmarks.speed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-models: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[models]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-models
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) frontier papers

PORTABLE := offramp/features offramp/policies offramp/cascades offramp/oracles offramp/eval
NUMERIC := tests/policies tests/oracles tests/features/test_spline.py tests/features/test_calibration.py \
	tests/cascades/test_points.py tests/cascades/test_routing.py tests/eval/test_bounds.py tests/eval/test_intervals.py
QUIET := $(BIN)/python -B -m pytest -p no:cacheprovider

.PHONY: portability
portability: $(VENV)/.installed-dev  ## doctests and numbers with other processors' kernels, hash seeds, locale, and nothing writable here
	OPENBLAS_CORETYPE=Prescott PYTHONHASHSEED=1 $(QUIET) $(PORTABLE)
	OPENBLAS_CORETYPE=Nehalem PYTHONHASHSEED=2 $(QUIET) -n 2 $(NUMERIC)
	OPENBLAS_CORETYPE=Haswell OPENBLAS_NUM_THREADS=1 $(QUIET) $(PORTABLE)
	env -u PYTHONIOENCODING LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $(QUIET) $(PORTABLE) tests/cascades/test_settings.py
	if unshare -rm true 2>/dev/null; then unshare -rm sh -ec 'mount --bind . . && mount -o remount,ro,bind . && \
		cd "$$PWD" && ! touch Makefile 2>/dev/null && $(QUIET) $(PORTABLE) tests/cascades/test_points.py'; \
	else echo "no read-only checkout here: unshare is not allowed"; fi
