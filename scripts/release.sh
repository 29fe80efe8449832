#!/usr/bin/env bash
# One release archive for the machine at hand: program, C libraries, headers, example programs, documents, checksum.
# Usage: scripts/release.sh [FOLDER]      (default target/release-archives)
#
# x86-64 is built for x86-64-v3 (AVX2: Haswell, Zen and later), everything else for the baseline of its target, so that
# the archive runs on other machines than the one that made it. It has a target folder of its own: flags are others.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cd "$here/.."

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
host=$(rustc -vV | sed -n 's/^host: //p')
out=${1:-$PWD/target/release-archives}
mkdir -p "$out"
out=$(cd "$out" && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/portable}
case $host in
x86_64-*) export RUSTFLAGS="-C target-cpu=x86-64-v3" ;;
*) export RUSTFLAGS="" ;;
esac
features=()
# Metal is what a Mac is bought for.
if [ "$(uname -s)" = Darwin ]; then
    features=(--features metal)
    export ADED_FEATURES=metal
fi

cargo build --locked --release ${features[@]+"${features[@]}"} || fail "program" "cargo failed" "read the first error above"
scripts/make-lib.py
cmake -S examples/c -B "$CARGO_TARGET_DIR/examples" -DCMAKE_BUILD_TYPE=Release "-DCMAKE_PREFIX_PATH=$CARGO_TARGET_DIR"
cmake --build "$CARGO_TARGET_DIR/examples"

name=aded-$version-$host
stage=$CARGO_TARGET_DIR/$name
rm -rf "$stage"
mkdir -p "$stage/bin" "$stage/lib" "$stage/include" "$stage/share/doc/aded" "$stage/examples"
cp "$CARGO_TARGET_DIR/release/aded" "$stage/bin/"
strip "$stage/bin/aded"
for file in "$CARGO_TARGET_DIR"/lib/libaded*; do cp -P "$file" "$stage/lib/"; done
cp -R "$CARGO_TARGET_DIR/lib/pkgconfig" "$CARGO_TARGET_DIR/lib/cmake" "$CARGO_TARGET_DIR/lib/include" "$stage/lib/"
for program in generate host_llama host_llama_full two_slots; do
    cp "$CARGO_TARGET_DIR/examples/$program" "$stage/examples/"
    strip "$stage/examples/$program"
done
rmdir "$stage/include"
# The program's page names those of its commands.
mkdir -p "$stage/share/man/man1"
"$stage/bin/aded" man >"$stage/share/man/man1/aded.1"
for command in $(sed -n 's/^aded\\-\([a-z]*\)(1)$/\1/p' "$stage/share/man/man1/aded.1" | grep -vx help); do
    "$stage/bin/aded" man "$command" >"$stage/share/man/man1/aded-$command.1"
done
cp README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE docs/c.md "$stage/share/doc/aded/"

"$stage/bin/aded" --version >&2
tar -C "$CARGO_TARGET_DIR" -czf "$out/$name.tar.gz" "$name"
cd "$out"
if command -v sha256sum >/dev/null 2>&1; then
    sha256sum "$name.tar.gz" >"$name.tar.gz.sha256"
else
    shasum -a 256 "$name.tar.gz" >"$name.tar.gz.sha256"
fi
say "made $out/$name.tar.gz"
