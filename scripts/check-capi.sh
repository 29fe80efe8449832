#!/usr/bin/env bash
# The C libraries under AddressSanitizer (with its leak check) and valgrind: the C programs of tests/capi and the examples.
# Usage: scripts/check-capi.sh [asan] [valgrind] [full]      (Linux, x86-64 or arm64; without arguments: asan and valgrind)
#
# asan      the core library under AddressSanitizer
# valgrind  the core library under valgrind, built for a processor that valgrind knows
# full      the full library under AddressSanitizer, with the default model
#
# Each check also runs a program with faults in it, and fails where they are not seen.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cd "$here/.."
[ "$(uname -s)" = Linux ] || fail "C checks" "these checks are made for Linux" "run them in a container"

target=${CARGO_TARGET_DIR:-$PWD/target}

# compile NAME LIBRARY SOURCE [COMPILER-FLAG...]: a program against the library of target/NAME, and the program's path.
compile() {
    local name=$1 library=$2 source=$3 output lib=$target/$1/lib compiler=(cc -std=c99)
    shift 3
    output=$target/$name/$(basename "${source%.*}")
    [ "${source##*.}" != cpp ] || compiler=(c++ -std=c++17)
    [ "$library" != aded ] || compiler+=(-DADED_FULL)
    # shellcheck disable=SC2046 # several words on purpose
    "${compiler[@]}" -Wall -Wextra -Werror -O1 -g "$@" "-I$lib/include" "$source" "$lib/lib$library.a" \
        $(sed -n 's/^Libs.private: //p' "$lib/pkgconfig/${library//_/-}.pc") -o "$output"
    echo "$output"
}

# passes NAME PROGRAM [ARGUMENT...]: runs a program that must end well under $runner.
passes() {
    say "$(basename "$2"), $1"
    "${runner[@]}" "${@:2}" >"$target/$1/output" ||
        fail "C checks" "$(basename "$2") failed under $1" "read what stands above"
}

# planted NAME LIBRARY FAULT WORDS [COMPILER-FLAG...]: a program with this fault must fail under $runner with these words.
planted() {
    local name=$1 library=$2 fault=$3 words=$4 program log
    shift 4
    program=$(compile "$name" "$library" tests/capi/planted.c "$@")
    log=$target/$name/planted.log
    if "${runner[@]}" "$program" "$fault" >"$log" 2>&1 || ! grep -q "$words" "$log"; then
        fail "C checks" "a planted $fault was not seen under $name" "read $log"
    fi
    say "a planted $fault is seen, $name"
}

# sanitized NAME LIBRARY-KIND: builds a library whose own code has the sanitizer's instructions. They come from a switch of
# rustc's nightly version, which the bootstrap variable opens on a stable one; a wrapper sets it for our crate alone, so that
# all others, llama.cpp among them, stay as they were built. Their memory is watched all the same: it is the same malloc.
sanitized() {
    mkdir -p "$target/$1"
    printf '#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec "$@"\n' >"$target/$1/rustc"
    chmod +x "$target/$1/rustc"
    RUSTC_WORKSPACE_WRAPPER="$target/$1/rustc" ADED_RUSTC_FLAGS="-Zsanitizer=address" ADED_LIB_DIR="$target/$1/lib" \
        python3 scripts/make-lib.py "$2" >/dev/null
    # A context that asks for terabytes must find out by itself that there are none.
    runner=(env ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:allocator_may_return_null=1 OMP_WAIT_POLICY=passive)
}

[ $# -gt 0 ] || set -- asan valgrind
for check in "$@"; do
    case $check in
    asan)
        sanitized asan core
        for program in cells misuse; do
            passes asan "$(compile asan aded_core "tests/capi/$program.c" -fsanitize=address)"
        done
        planted asan aded_core overrun heap-buffer-overflow -fsanitize=address
        planted asan aded_core leak "detected memory leaks" -fsanitize=address
        ;;
    valgrind)
        # valgrind knows no AVX-512.
        flags=
        [ "$(uname -m)" != x86_64 ] || flags="-C target-cpu=x86-64-v3"
        RUSTFLAGS=$flags CARGO_TARGET_DIR="$target/valgrind" python3 scripts/make-lib.py core >/dev/null
        runner=(valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite,indirect,possible
            --errors-for-leak-kinds=definite,indirect)
        for program in cells misuse; do
            passes valgrind "$(compile valgrind aded_core "tests/capi/$program.c")"
        done
        planted valgrind aded_core overrun "Invalid read"
        planted valgrind aded_core leak "definitely lost"
        ;;
    full)
        model=$(model_file "$here")
        sanitized full full
        passes full "$(compile full aded tests/capi/misuse_full.c -fsanitize=address)" "$model"
        passes full "$(compile full aded examples/c/generate.c -fsanitize=address)" "$model" "Count from 1 to 20."
        llama=(-isystem "$target/full/lib/include/llama.cpp" -fsanitize=address)
        for mode in --always --plain; do
            passes full "$(compile full aded examples/c/host_llama.cpp "${llama[@]}")" "$model" -n 60 --kernels "$mode"
        done
        passes full "$(compile full aded examples/c/two_slots.c "${llama[@]}")" "$model" -n 40 --kernels
        planted full aded overrun heap-buffer-overflow -fsanitize=address
        planted full aded leak "detected memory leaks" -fsanitize=address
        ;;
    *) fail "C checks" "'$check' is no check" "give asan, valgrind or full" ;;
    esac
done
