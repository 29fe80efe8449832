#!/usr/bin/env bash
# Runs one step of the Makefile and, if it fails, names it and the way out.
# Usage: scripts/step.sh STEP WAY_OUT COMMAND [ARGUMENT...]
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

name=$1
way_out=$2
shift 2
"$@"
status=$?
# An interrupt is the user's wish, not a failure to explain.
[ "$status" -eq 0 ] || [ "$status" -eq 130 ] && exit "$status"
fail "$name" "'$*' ended with exit code $status" "$way_out"
