# From a clean clone to an answer: `make run`. The scripts install what is missing, fetch the model and explain what
# fails; nothing here depends on the order of goals, and every goal can be repeated.

# rustup puts cargo here, and not every shell's PATH says so.
export PATH := $(PATH):$(HOME)/.cargo/bin

step := scripts/step.sh
build_help := read the first error above; after new RUSTFLAGS, a new .cargo/config.toml or a new compiler: cargo clean -p llama-cpp-sys-2 --release
build = $(step) build "$(build_help)" cargo build --locked --release
test_help := the names of the failed tests stand above; run one alone with: cargo test --release NAME

.DEFAULT_GOAL := help
.PHONY: help deps models build run test bench lib vendor ci clean

help: ## list the goals
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

run: deps ## build, fetch the default model and answer one prompt (MODEL=file, PROMPT=text, ARGS=flags)
	@$(build)
	@scripts/run.sh

# Threads that spin while they wait for each other slow decoding twentyfold on a machine that does something else at
# the same time; tests measure no speed, so they give the processor away at once.
test: export OMP_WAIT_POLICY ?= passive
test: deps models ## fetch both models and run all tests
	@$(step) "core tests" "$(test_help)" cargo test --locked --no-default-features
	@$(step) "engine tests" "$(test_help)" cargo test --locked --release --features capi,llama-cpp-2

build: ## build target/release/aded for this machine
	@scripts/deps.sh build
	@$(build)

lib: ## build the C libraries, with headers, pkg-config files and a CMake package, in target/lib (docs/c.md)
	@scripts/deps.sh build
	@$(step) lib "$(build_help)" scripts/make-lib.py

vendor: ## put the sources of all crates into vendor/crates, for builds without a network (vendor/README.md)
	@scripts/vendor.sh

PROMPTS ?= benches/prompts/mixed.jsonl
bench: deps ## measure the speed-up on this machine as the README's table does (MODEL=file, PROMPTS=file, ARGS=flags)
	@$(build)
	@scripts/bench.sh $(PROMPTS)

models: ## fetch SmolLM2-135M and Gemma-3-270M into the model store
	@scripts/deps.sh fetch
	@scripts/models.py smollm2 gemma3 >&2

# Both tasks in one call: whoever lacks root learns of everything at once. A model of one's own needs no download.
deps: ## install the tools that are missing
	@scripts/deps.sh build $(if $(MODEL)$(ADED_MODEL),,fetch)

ci: ## everything that the continuous integration checks
	@bash .ci/run

clean: ## remove what was built (the models stay)
	@cargo clean
