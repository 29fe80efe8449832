#!/usr/bin/env bash
# One prompt through the program that `make run` has just built: the last stage of `make run`.
# Environment: MODEL or ADED_MODEL (a GGUF file instead of the default one), PROMPT, ARGS (more flags of `aded run`).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

model=$(model_file "$here")
prompt=${PROMPT:-Write a short guide to brewing good coffee at home, as a numbered list.}
# Standard input stays closed: `aded run` joins piped input to the prompt, and a CI's open pipe would never end.
# shellcheck disable=SC2086 # ARGS holds several words on purpose
exec cargo run --release --locked --quiet -- run -m "$model" -p "$prompt" -n 200 --stats ${ARGS:-} </dev/null
