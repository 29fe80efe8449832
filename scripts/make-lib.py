#!/usr/bin/env python3
"""Builds the C libraries into target/lib: libaded_core and libaded as archives and shared objects, the headers, pkg-config
files and a CMake package. Usage: scripts/make-lib.py [core] [full]   (both without arguments)

The libraries are for the processor that RUSTFLAGS, or else .cargo/config.toml, names. CARGO_TARGET_DIR is followed;
ADED_LIB_DIR puts the libraries elsewhere than below it, and ADED_RUSTC_FLAGS are for our crate alone: what it depends on,
llama.cpp above all, is then built no second time.
"""

import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
LIB = pathlib.Path(os.environ.get("ADED_LIB_DIR", TARGET / "lib")).resolve()
MACOS = platform.system() == "Darwin"
SHARED = "dylib" if MACOS else "so"
# The features of Cargo.toml that each library has. A GPU's feature can be added: ADED_FEATURES=cuda scripts/make-lib.py full
KINDS = {"core": ("aded_core", "capi"), "full": ("aded", "capi,llama")}
DESCRIPTIONS = {
    "core": "drafting for programs that decode by themselves (ADED), without llama.cpp",
    "full": "text generation with adaptive draft-and-verify decoding (ADED), llama.cpp inside",
}


def version():
    manifest = (ROOT / "Cargo.toml").read_text()
    return re.search(r'^version = "(.*)"$', manifest, re.M).group(1)


def build(kind):
    """Runs cargo; gives the files it made, what else a program must link, and where llama.cpp was installed."""
    name, features = KINDS[kind]
    if kind == "full" and os.environ.get("ADED_FEATURES"):
        features += "," + os.environ["ADED_FEATURES"]
    # Before 1.0 a minor version may break the interface: it is part of the name that programs look for.
    soname = f"lib{name}.so.{'.'.join(version().split('.')[:2])}"
    named = f"-Wl,-install_name,@rpath/lib{name}.dylib" if MACOS else f"-Wl,-soname,{soname}"
    command = ["cargo", "rustc", "--locked", "--release", "--lib", "--no-default-features", "--features", features]
    if kind == "core":
        # cargo gives both libraries the same file name: in one folder each would have the other built again.
        command += ["--target-dir", TARGET / "core"]
    command += ["--crate-type", "staticlib,cdylib", "--message-format", "json-render-diagnostics", "--"]
    command += ["--print", "native-static-libs", "-C", f"link-arg={named}", *os.environ.get("ADED_RUSTC_FLAGS", "").split()]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        sys.exit(f"make-lib: cargo ended with exit code {done.returncode}")
    files, llama, libraries = {}, None, None
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "aded":
            files |= {pathlib.Path(file).suffix: pathlib.Path(file) for file in message["filenames"]}
        elif message["reason"] == "build-script-executed" and "llama-cpp-sys-2" in message["package_id"]:
            llama = pathlib.Path(message["out_dir"])
    found = re.search(r"native-static-libs: (.*)", done.stderr)
    if not found:
        sys.exit("make-lib: rustc did not say what else is to be linked")
    # rustc names some twice. Compilers bring libgcc_s by themselves, and under -static another one: there it does not exist.
    libraries = [name for name in dict.fromkeys(found.group(1).split()) if name != "-lgcc_s"]
    return files, libraries, llama, soname


def install(kind):
    name, _ = KINDS[kind]
    files, libraries, llama, soname = build(kind)
    LIB.mkdir(parents=True, exist_ok=True)
    archive = LIB / f"lib{name}.a"
    shutil.copy2(files[".a"], archive)
    # Line tables are nine tenths of it; the names of functions stay.
    subprocess.run(["strip", "-S", archive], check=True)
    shared = LIB / f"lib{name}.{SHARED}"
    shared.unlink(missing_ok=True)
    if MACOS:
        shutil.copy2(files[".dylib"], shared)
    else:
        shutil.copy2(files[".so"], LIB / soname)
        subprocess.run(["strip", "-S", LIB / soname], check=True)
        shared.symlink_to(soname)
    include = LIB / "include"
    include.mkdir(exist_ok=True)
    for header in ("aded.h", "aded_llama.h"):
        shutil.copy2(ROOT / "include" / header, include)
    if llama:
        # For hosts that take the llama.cpp inside libaded.a as theirs, and for the examples.
        shutil.copytree(llama / "include", include / "llama.cpp", dirs_exist_ok=True)
        (LIB / "llama.cpp").unlink(missing_ok=True)
        (LIB / "llama.cpp").symlink_to(llama / "lib")
    pkg_config(kind, libraries)
    cmake(kind, libraries)
    print(f"{LIB / f'lib{name}.a'}\n{shared}")


def pkg_config(kind, libraries):
    name, _ = KINDS[kind]
    folder = LIB / "pkgconfig"
    folder.mkdir(exist_ok=True)
    defines = " -DADED_FULL" if kind == "full" else ""
    (folder / f"{name.replace('_', '-')}.pc").write_text(f"""\
libdir=${{pcfiledir}}/..
includedir=${{libdir}}/include

Name: {name.replace('_', '-')}
Description: {DESCRIPTIONS[kind]}
Version: {version()}
Cflags: -I${{includedir}}{defines}
Libs: -L${{libdir}} -l{name}
Libs.private: {' '.join(libraries)}
""")


def cmake(kind, libraries):
    """One file for each library, so that either can be built alone; aded-config.cmake takes what is there."""
    name, _ = KINDS[kind]
    folder = LIB / "cmake" / "aded"
    folder.mkdir(parents=True, exist_ok=True)
    target = {"core": "core", "full": "aded"}[kind]
    defines = "\n    INTERFACE_COMPILE_DEFINITIONS ADED_FULL" if kind == "full" else ""
    (folder / f"aded-{target}.cmake").write_text(f"""\
add_library(aded::{target} STATIC IMPORTED)
set_target_properties(aded::{target} PROPERTIES
    IMPORTED_LOCATION "${{ADED_PREFIX}}/lib{name}.a"
    INTERFACE_INCLUDE_DIRECTORIES "${{ADED_PREFIX}}/include"{defines}
    INTERFACE_LINK_LIBRARIES "{';'.join(libraries)}")
""")
    (folder / "aded-config.cmake").write_text("""\
# Targets: aded::core (drafting, for programs with a llama.cpp of their own) and aded::aded (the engine).
get_filename_component(ADED_PREFIX "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
foreach(target core aded)
    if(EXISTS "${CMAKE_CURRENT_LIST_DIR}/aded-${target}.cmake" AND NOT TARGET aded::${target})
        include("${CMAKE_CURRENT_LIST_DIR}/aded-${target}.cmake")
    endif()
endforeach()
""")
    (folder / "aded-config-version.cmake").write_text(f"""\
set(PACKAGE_VERSION "{version()}")
# Before 1.0 a minor version may break the interface.
if("${{PACKAGE_FIND_VERSION_MAJOR}}.${{PACKAGE_FIND_VERSION_MINOR}}" VERSION_EQUAL "{'.'.join(version().split('.')[:2])}"
   AND NOT PACKAGE_FIND_VERSION VERSION_GREATER "{version()}")
    set(PACKAGE_VERSION_COMPATIBLE TRUE)
    if(PACKAGE_FIND_VERSION VERSION_EQUAL "{version()}")
        set(PACKAGE_VERSION_EXACT TRUE)
    endif()
else()
    set(PACKAGE_VERSION_COMPATIBLE FALSE)
endif()
""")


for wanted in sys.argv[1:] or list(KINDS):
    if wanted not in KINDS:
        sys.exit(f"make-lib: '{wanted}' is no library; give {' or '.join(KINDS)}")
    install(wanted)
