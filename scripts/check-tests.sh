#!/usr/bin/env bash
# The Rust tests under AddressSanitizer, with its leak check.
# Usage: scripts/check-tests.sh [core] [engine]      (Linux, x86-64 or arm64; without arguments: core)
#
# core    the library without llama.cpp: the kernels on every instruction set of this machine, and the method
# engine  the tests with llama.cpp and the real models, but for the soaks
#
# A program with a fault in it comes first: where that is not seen, the check fails.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cd "$here/.."
[ "$(uname -s)" = Linux ] || fail "tests, sanitizer" "these checks are made for Linux" "run them in a container"

folder=${CARGO_TARGET_DIR:-$PWD/target}/sanitized
mkdir -p "$folder"
# The sanitizer's instructions come from a switch of rustc's nightly version, which the bootstrap variable opens on a stable one. A
# wrapper sets both for our crate alone, so that all others, llama.cpp among them, stay as they were built. Their memory is watched all
# the same: it is the same malloc.
cat >"$folder/rustc" <<'END'
#!/bin/sh
RUSTC_BOOTSTRAP=1 exec "$@" -Zsanitizer=address
END
chmod +x "$folder/rustc"
export RUSTC_WORKSPACE_WRAPPER="$folder/rustc" OMP_WAIT_POLICY=passive
# A context that asks for terabytes must find out by itself that there are none.
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:allocator_may_return_null=1

cat >"$folder/planted.rs" <<'END'
fn main() {
    let bytes = vec![0u8; 4].into_boxed_slice();
    // SAFETY: none, this is the fault: one byte behind the box.
    println!("{}", unsafe { bytes.as_ptr().add(3 + std::env::args().count()).read_volatile() });
}
END
"$folder/rustc" rustc -O -o "$folder/planted" "$folder/planted.rs"
if "$folder/planted" >"$folder/planted.log" 2>&1 || ! grep -q heap-buffer-overflow "$folder/planted.log"; then
    fail "tests, sanitizer" "a planted overrun was not seen" "read $folder/planted.log"
fi
say "a planted overrun is seen"

[ $# -gt 0 ] || set -- core
for check in "$@"; do
    say "$check under AddressSanitizer"
    case $check in
    core) cargo test --locked --no-default-features --lib --test core ;;
    engine)
        cargo test --locked --release --features capi,llama-cpp-2 --test kernels --test engine -- --skip soak
        ;;
    *) fail "tests, sanitizer" "'$check' is no check" "give core or engine" ;;
    esac
done
