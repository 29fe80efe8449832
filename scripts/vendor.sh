#!/usr/bin/env bash
# Puts the sources of all crates, llama.cpp among them, into vendor/crates, which git ignores: `make vendor`. Builds that
# are given vendor/crates/config.toml then need no network.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cd "$here/.."

mkdir -p target
# cargo prints the lines that make it use the folder. Only who names the file takes them: other builds stay as they are.
cargo vendor --locked --quiet --versioned-dirs vendor/crates >target/vendor.toml ||
    fail "vendor" "cargo could not fetch all crates" "this needs the network once; try again"
mv target/vendor.toml vendor/crates/config.toml
say "build without a network: cargo build --release --locked --offline --config vendor/crates/config.toml"
