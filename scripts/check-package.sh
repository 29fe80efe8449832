#!/usr/bin/env bash
# What `cargo publish` would send: its size, and that it builds where nothing but it is there.
# Usage: scripts/check-package.sh [core]      (core: without llama.cpp, in seconds)
#
# The crate is unpacked beside the target folder and built there with the flags and the target folder of the repository, so
# that llama.cpp is compiled no second time.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cd "$here/.."

# The registry takes no more.
limit=$((10 * 1024 * 1024))
target=${CARGO_TARGET_DIR:-$PWD/target}
include=$PWD/scripts/gcc-vectors.cmake
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)

cargo package --locked --no-verify --allow-dirty --quiet
crate=$target/package/aded-$version.crate
size=$(wc -c <"$crate")
[ "$size" -le "$limit" ] || fail "package" "$crate has $size bytes, the registry takes $limit" "look at \`include\` in Cargo.toml"
say "$crate has $((size / 1024)) KiB"

# Outside the repository: neither its .cargo nor its .git may help.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tar -xzf "$crate" -C "$folder"
cd "$folder/aded-$version"
export CARGO_TARGET_DIR=$target CMAKE_PROJECT_INCLUDE=$include RUSTFLAGS="${RUSTFLAGS:--C target-cpu=native}"
cargo build --locked --no-default-features --examples
if [ "${1:-}" != core ]; then
    cargo build --locked --release --examples
    "$target/release/aded" --version
fi
say "the packaged crate builds"
