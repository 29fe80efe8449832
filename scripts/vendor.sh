#!/usr/bin/env bash
# Puts the sources of all crates, llama.cpp among them, into vendor/crates, which git ignores: `make vendor`. Builds that
# are given vendor/crates/config.toml then need no network.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cd "$here/.."

cargo vendor --locked --quiet --versioned-dirs vendor/crates >/dev/null ||
    fail "vendor" "cargo could not fetch all crates" "this needs the network once; try again"
# The lines that make cargo use the folder. Only who names the file takes them: other builds stay as they are. cargo counts the
# path from the parent of this file's folder, so that the repository may be moved.
cat >vendor/crates/config.toml <<'LINES'
[source.crates-io]
replace-with = "vendored-sources"

[source.vendored-sources]
directory = "crates"
LINES
# A build that still wanted the network would only be noticed where there is none.
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
CARGO_HOME=$home cargo metadata --locked --offline --format-version 1 --config vendor/crates/config.toml >/dev/null ||
    fail "vendor" "cargo does not find all crates in vendor/crates" "remove vendor/crates and try again"
say "build without a network: cargo build --release --locked --offline --config vendor/crates/config.toml"
