# Everything that is done to this project has a name here.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# What the tests install and what is slow to build is kept here.
export PILLION_CACHE ?= $(CURDIR)/.cache

.PHONY: help demo demo-full test test-all bench lint docs fmt

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## The shop: three services in three languages and their sidecars, under a small load
	@scripts/demo

demo-full: ## The whole shop: gRPC, PostgreSQL, RabbitMQ and Kafka too, counted at the end
	@scripts/demo-full

test: ## Format, lints, all tests, the docs, the demo: some 20 minutes on a bare machine of 2 cores
	@scripts/test

test-all: ## `make test`, and the tests against parts that take minutes to build
	@scripts/test --all

bench: ## Pillion beside Envoy, HAProxy and nginx, each on one core
	@scripts/bench

lint: ## Format and lints
	@cargo fmt --check
	@cargo clippy --all-targets --locked -- -D warnings

docs: ## The links and the examples of the docs, and the docs of the code
	@cargo test --locked --test guards
	@RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --no-deps --document-private-items

fmt: ## Formats the code
	@cargo fmt
