.PHONY: quality style test test-fast
# What .ci/run checks; `make style` mends what can be mended by itself.
quality:
	ruff check .
	ruff format --check .
	mypy

style:
	ruff check --fix .
	ruff format .

test:
	python -m pytest

test-fast:
	python -m pytest -m "not slow"
