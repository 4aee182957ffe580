# Every target sets up what it needs, on a fresh Debian 12 too, as root or as an ordinary user.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo check test man bench clean

help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what is missing: Debian packages and .venv
	@.ci/setup

demo: setup ## a story with real packets, in namespaces of its own
	@.venv/bin/python -m scenarios.demo

check: setup ## style and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

test: check ## check, then all tests and scenarios
	.venv/bin/pytest -n 4 --dist worksteal # on two cores too: a good part of the time they wait for what must not come

man: setup ## manual pages into build/man, of what --help is made of
	@.venv/bin/python -c 'from netkit.cli import cli, man; print(*man.write(cli, "build/man"))'

bench: ## measure; installs the programs netkit is compared with
	@.ci/setup bench
	@.venv/bin/python -m benchmarks.run

clean: ## remove what make made, .venv too
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
