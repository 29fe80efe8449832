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

# model_file FOLDER_OF_SCRIPTS: the file that MODEL or ADED_MODEL names, or the default model, fetched where it is missing.
model_file() {
    local model=${MODEL:-${ADED_MODEL:-}}
    if [ -z "$model" ]; then
        "$1/models.py"
        return
    fi
    [ -f "$model" ] || fail "model" "MODEL names '$model', which is not a file" \
        "give the path of a GGUF file, or leave MODEL and ADED_MODEL empty for the default model"
    printf '%s\n' "$model"
}
