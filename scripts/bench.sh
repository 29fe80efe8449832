#!/usr/bin/env bash
# The measurement behind the README's table, on this machine: llama.cpp's plain decoding, ours, and drafting.
# Usage: bench.sh PROMPTS.jsonl. Environment: MODEL or ADED_MODEL, ARGS (more flags of `aded bench`).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

[ -f "${1:-}" ] || fail "bench" "'${1:-}' is not a file" "give a file of questions: PROMPTS=file.jsonl"
model=$(model_file "$here")
# Tests give the processor away while they wait; a measurement must not.
unset OMP_WAIT_POLICY
# shellcheck disable=SC2086 # ARGS holds several words on purpose
exec cargo run --release --locked --quiet -- bench -m "$model" --prompts "$1" --modes plain,stock,auto ${ARGS:-} </dev/null
