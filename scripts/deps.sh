#!/usr/bin/env bash
# Checks that the tools of some tasks are there, and installs the missing ones with apt, dnf or brew. Without root it
# changes nothing and prints the command to run.
#
# Usage: scripts/deps.sh TASK...
#   build   Rust, a C and a C++ compiler, cmake, make, libclang: what llama.cpp and its bindings need
#   fetch   python3 with pip, which fetch the models
#   lint    the Rust components rustfmt and clippy
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
PATH="$PATH:$HOME/.cargo/bin"

os=$(uname -s)

has() {
    command -v "$1" >/dev/null 2>&1
}

# True if one of the paths, whose wildcards the caller left open, is a file.
any_file() {
    local path
    for path in "$@"; do
        [ -e "$path" ] && return 0
    done
    return 1
}

# bindgen loads libclang at build time and needs the compiler's own headers (stddef.h and its like) beside it; the
# package with the library alone is not enough.
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    if [ "$os" = Darwin ]; then
        local tools
        tools=$(xcode-select -p 2>/dev/null) || return 1
        any_file "$tools"/usr/lib/libclang.dylib "$tools"/Toolchains/XcodeDefault.xctoolchain/usr/lib/libclang.dylib
        return
    fi
    # Not libclang-cpp.so, another library, which graphics drivers bring along.
    any_file /usr/lib/llvm-*/lib/libclang{,-[0-9]*}.so* /usr/lib64/libclang{,-[0-9]*}.so* \
        /usr/lib64/llvm*/lib*/libclang{,-[0-9]*}.so* /usr/lib/libclang{,-[0-9]*}.so* \
        /usr/lib/*-linux-gnu/libclang{,-[0-9]*}.so* /usr/local/lib/libclang{,-[0-9]*}.so* || return 1
    any_file /usr/lib/llvm-*/lib/clang/*/include/stddef.h /usr/lib*/clang/*/include/stddef.h \
        /usr/lib64/llvm*/lib*/clang/*/include/stddef.h /usr/local/lib/clang/*/include/stddef.h
}

has_pip() {
    has python3 && { python3 -m pip --version || python3 -c 'import ensurepip, venv'; } >/dev/null 2>&1
}

# The compilers, make and libclang of macOS come with these tools, which only a dialogue can install. Without them
# /usr/bin/cc is there all the same, as a stub that fails.
check_apple_tools() {
    [ "$os" != Darwin ] || xcode-select -p >/dev/null 2>&1 || fail "tools" "Apple's command line tools are missing" \
        "run 'xcode-select --install', then run the command again"
}

# Rust is not installed by this script: rustup asks questions that are the user's to answer.
check_rust() {
    local want have
    want=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$here/../Cargo.toml")
    if ! has cargo || ! has rustc; then
        fail "tools" "cargo was not found on PATH or in ~/.cargo/bin" \
            "install Rust $want or newer as https://rustup.rs describes, then run the command again"
    fi
    have=$(rustc --version | cut -d' ' -f2)
    if [ "$(printf '%s\n%s\n' "$want" "${have%%-*}" | sort -t. -k1,1n -k2,2n -k3,3n | head -n 1)" != "$want" ]; then
        fail "tools" "rustc $have is older than the $want that this package needs" \
            "'rustup update stable', or install rustup from https://rustup.rs if this Rust came with the system"
    fi
}

check_rust_components() {
    local missing=''
    cargo fmt --version >/dev/null 2>&1 || missing="$missing rustfmt"
    cargo clippy --version >/dev/null 2>&1 || missing="$missing clippy"
    [ -z "$missing" ] && return
    # shellcheck disable=SC2086 # the list is split into words on purpose
    if ! has rustup || ! rustup component add $missing; then
        fail "tools" "the Rust components$missing are missing" "rustup component add$missing"
    fi
}

missing=''
need() {
    missing="$missing $1"
}

for task in "$@"; do
    case "$task" in
    build)
        check_rust
        check_apple_tools
        has cc || need cc
        has c++ || need c++
        has make || need make
        has cmake || need cmake
        has_libclang || need libclang
        ;;
    fetch)
        has python3 || need python3
        has_pip || need pip
        ;;
    lint) check_rust_components ;;
    *) fail "tools" "unknown task '$task'" "some of: build, fetch, lint" ;;
    esac
done
[ -z "$missing" ] && exit 0

# The name of each missing tool in the package manager's own words.
packages() {
    local tool
    for tool in $missing; do
        case "$1:$tool" in
        apt:cc) echo gcc libc6-dev ;;
        apt:c++) echo g++ ;;
        apt:libclang) echo libclang-dev ;;
        apt:pip) echo python3-pip ;;
        dnf:cc) echo gcc ;;
        dnf:c++) echo gcc-c++ ;;
        dnf:libclang) echo clang-devel ;;
        dnf:pip) echo python3-pip ;;
        brew:python3 | brew:pip) echo python ;;
        *) echo "$tool" ;;
        esac
    done | tr '\n' ' ' | sed 's/ $//'
}

if [ "$os" = Darwin ] && has brew; then
    manager=brew
    list=$(packages brew)
    command="brew install $list"
elif has apt-get; then
    manager=apt
    list=$(packages apt)
    command="apt-get install -y -q --no-install-recommends $list"
elif has dnf; then
    manager=dnf
    list=$(packages dnf)
    command="dnf install -y $list"
else
    fail "tools" "missing:$missing; neither apt-get, dnf nor brew was found to install them" \
        "install them with your system's package manager, then run the command again"
fi

if [ "$manager" != brew ] && [ "$(id -u)" -ne 0 ]; then
    fail "tools" "missing:$missing; installing them needs root" "run 'sudo $command', then run the command again"
fi

say "installing what is missing:$missing ($command)"
export DEBIAN_FRONTEND=noninteractive
if [ "$manager" = apt ]; then
    apt-get update -qq >&2 || fail "tools" "apt-get update failed" \
        "check the network and /etc/apt, then run '$command'"
fi
# shellcheck disable=SC2086 # the command's words are split on purpose
$command </dev/null >&2 || fail "tools" "'$command' failed" \
    "mend what the message above names, then run the command again"
hash -r

# A package that is installed and still does not serve would only fail later, and less clearly.
for tool in $missing; do
    case "$tool" in
    libclang) has_libclang ;;
    pip) has_pip ;;
    *) has "$tool" ;;
    esac || fail "tools" "'$command' went through, yet $tool is still not found" \
        "install $tool by hand; for libclang set LIBCLANG_PATH to the folder of libclang.so"
done
