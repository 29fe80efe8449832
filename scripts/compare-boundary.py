#!/usr/bin/env python3
"""What the C interface and the llama-cpp-2 plug-in cost: decode rates of hosts against the Rust engine, in alternating pairs.

Usage: scripts/compare-boundary.py MODEL.gguf [-r REPETITIONS] [-n TOKENS]

Each repetition runs every host on every prompt, in an order that turns, on the same llama.cpp: the Rust engine
(`aded run`), the C host on the full library with our kernels, and the llama-cpp-2 host with them; then the engine with
--kernels off and the C host on the core library, whose llama.cpp has none. Printed are the ratios of paired rates: the
median, its quartiles, and every value. An otherwise idle machine is needed. Builds what is missing first.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PROMPTS = [
    "Count from 1 to 60, one number a line:\n1\n2\n3\n4\n5\n6\n",
    "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the lazy dog. The quick brown fox",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n\ndef factorial(n):\n",
    "Water boils at 100 degrees. Ice melts at 0 degrees. Steam is water as a gas. In short, water",
]


def run(command):
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"compare-boundary: {command} ended with {done.returncode}\n{done.stderr}")
    return done


def build():
    run(["cargo", "build", "--locked", "--release", "--features", "capi,llama-cpp-2", "--bin", "aded", "--example", "04_llama_cpp_2"])
    run([ROOT / "scripts/make-lib.py"])
    folder = TARGET / "boundary"
    run(["cmake", "-S", "examples/c", "-B", folder, "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_PREFIX_PATH={TARGET}"])
    run(["cmake", "--build", folder])
    return folder


def engine(model, prompt, n, kernels):
    # Decodes what the hosts decode: no template, no end, the largest logit, nothing remembered.
    command = [TARGET / "release/aded", "run", "-m", model, "-p", prompt, "-no-cnv", "--no-escape", "-n", n, "--temp", 0]
    command += ["-t", 2, "-c", 2048, "-b", 512, "--memory", "off", "--kernels", kernels, "--json"]
    return json.loads(run(command).stdout)["timings"]["predicted_per_second"]


def c_host(program, model, prompt, n, *flags):
    report = run([program, model, "-n", n, *flags, prompt]).stderr
    return float(re.search(r"([\d.]+) tokens/s", report).group(1))


def rust_host(model, prompt, n):
    report = run([TARGET / "release/examples/04_llama_cpp_2", model, prompt, "auto", n]).stderr
    return float(re.search(r"generation ([\d.]+) t/s", report).group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-r", type=int, default=7)
    parser.add_argument("-n", type=int, default=200)
    arguments = parser.parse_args()
    folder = build()
    model, n = pathlib.Path(arguments.model).resolve(), arguments.n
    arms = {
        "engine": lambda prompt: engine(model, prompt, n, "auto"),
        "C host, libaded": lambda prompt: c_host(folder / "host_llama_full", model, prompt, n, "--kernels"),
        "llama-cpp-2 host": lambda prompt: rust_host(model, prompt, n),
        "engine, kernels off": lambda prompt: engine(model, prompt, n, "off"),
        "C host, libaded_core": lambda prompt: c_host(folder / "host_llama", model, prompt, n),
    }
    pairs = {"C host, libaded": "engine", "llama-cpp-2 host": "engine", "C host, libaded_core": "engine, kernels off"}
    ratios = {host: [] for host in pairs}
    names = list(arms)
    for repetition in range(arguments.r):
        for index, prompt in enumerate(PROMPTS):
            turn = (repetition + index) % len(names)
            order = names[turn:] + names[:turn]
            if repetition % 2:
                order.reverse()
            rates = {name: arms[name](prompt) for name in order}
            print(f"repetition {repetition}, prompt {index}: " + ", ".join(f"{name} {rates[name]:.1f}" for name in names))
            for host, base in pairs.items():
                ratios[host].append(rates[host] / rates[base])
    for host, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        listed = " ".join(f"{value:.3f}" for value in values)
        print(f"{host} / {pairs[host]}: median {middle:.3f}, quartiles {low:.3f} to {high:.3f}; {listed}")


main()
