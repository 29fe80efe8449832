#!/usr/bin/env bash
# The core library under AddressSanitizer (with its leak check) and under valgrind: the C programs of tests/capi.
# Usage: scripts/check-capi.sh [asan] [valgrind]      (both without arguments; Linux, x86-64 or arm64)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cd "$here/.."
[ "$(uname -s)" = Linux ] || fail "C checks" "these checks are made for Linux" "run them in a container"

target=${CARGO_TARGET_DIR:-$PWD/target}
link=(-lpthread -lm -ldl)

# programs NAME COMPILER-FLAG...: compiles the programs against the library of target/NAME and runs them by $runner.
programs() {
    local name=$1 program
    shift
    for program in cells misuse; do
        cc -std=c99 -Wall -Wextra -Werror -O1 -g "$@" -Iinclude "tests/capi/$program.c" \
            "$target/$name/lib/libaded_core.a" "${link[@]}" -o "$target/$name/$program"
        say "$program, $name"
        "${runner[@]}" "$target/$name/$program"
    done
}

for check in "${@:-asan valgrind}"; do
    for check in $check; do
        case $check in
        asan)
            # The sanitizer's instructions come from rustc's nightly switch, which the bootstrap variable opens on a stable one.
            RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR="$target/asan" \
                ADED_CARGO_TARGET="$(rustc -vV | sed -n 's/^host: //p')" python3 scripts/make-lib.py core >/dev/null
            runner=(env ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1)
            programs asan -fsanitize=address
            # It must see a fault that is there: the library reads more tokens than the caller has.
            program=$target/asan/planted
            cc -std=c99 -fsanitize=address -Iinclude -x c - -x none "$target/asan/lib/libaded_core.a" "${link[@]}" \
                -o "$program" <<'SOURCE'
#include <stdlib.h>
#include "aded.h"
int main(void) {
    aded_drafter_params params;
    aded_prompt prompt;
    aded_drafter *drafter = NULL;
    int32_t *tokens = calloc(2, sizeof *tokens);
    aded_drafter_default_params(&params, sizeof params);
    params.n_vocab = params.n_ctx = 64;
    aded_drafter_new(&params, &drafter);
    aded_prompt_defaults(&prompt, sizeof prompt);
    prompt.tokens = tokens;
    prompt.n_tokens = 32;
    aded_drafter_begin(drafter, 0, &prompt);
    aded_drafter_free(drafter);
    free(tokens);
    return 0;
}
SOURCE
            if "$program" >"$program.log" 2>&1 || ! grep -q heap-buffer-overflow "$program.log"; then
                fail "C checks" "the sanitizer did not see a planted fault" "read $program.log"
            fi
            say "a planted fault is seen"
            ;;
        valgrind)
            # valgrind knows no AVX-512.
            flags=
            [ "$(uname -m)" != x86_64 ] || flags="-C target-cpu=x86-64-v3"
            RUSTFLAGS=$flags CARGO_TARGET_DIR="$target/valgrind" python3 scripts/make-lib.py core >/dev/null
            runner=(valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite,indirect,possible
                --errors-for-leak-kinds=definite,indirect)
            programs valgrind
            ;;
        *) fail "C checks" "'$check' is no check" "give asan or valgrind" ;;
        esac
    done
done
