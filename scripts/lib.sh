# shellcheck shell=bash
# Shared by the scripts: one way to speak, one way to fail. Everything goes to stderr, so that stdout keeps the
# model's text alone. Written for bash 3.2, which is what macOS ships.

say() {
    printf 'aded: %s\n' "$*" >&2
}

# fail STEP WHAT WAY_OUT: names the step and what the reader can do about it, and ends the script.
fail() {
    printf 'aded: step "%s" failed: %s\naded: way out: %s\n' "$1" "$2" "$3" >&2
    exit 1
}
