#!/usr/bin/env python3
"""Compares plain decoding of `aded` with llama.cpp's own llama-bench: the same model, threads and number of tokens, in
pairs whose order alternates, and prints the median of the pairs' ratios.

Usage: scripts/compare-plain.py PEERS [-m MODEL] [-t THREADS] [-n TOKENS] [-r PAIRS] [--fa on|off|auto] [--aded PATH]

PEERS is the folder of llama-bench. Build it from the llama.cpp that `aded` holds (vendor/README.md) with
-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON; another version or other flags would compare something else. The machine
should do nothing else meanwhile.

Both sides decode greedily, one token at a time, from an empty context: llama-bench after its usual warm-up, `aded`
after a prompt of one word. llama-bench times TOKENS decode calls without sampling. `aded` samples each token, and its
first token comes from the prompt's own logits: TOKENS + 1 are asked for, and the rate is that of the decode calls.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def output_of(command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"aded: step \"compare\" failed: {' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def bench_rate(arguments):
    """Decode calls per second of llama-bench."""
    command = [str(arguments.peers / "llama-bench"), "-m", arguments.model, "-t", str(arguments.threads)]
    command += ["-n", str(arguments.tokens), "-p", "0", "-r", "1", "-fa", arguments.fa, "-o", "json"]
    return output_of(command)[0]["avg_ts"]


def aded_rate(arguments):
    """Decode calls per second of `aded run --spec off`."""
    threads = str(arguments.threads)
    # The context is that of llama-bench: the tokens, and no more than the padding above.
    command = [str(arguments.aded), "run", "-m", arguments.model, "-t", threads, "-tb", threads, "-c", "256"]
    command += ["-fa", arguments.fa, "-n", str(arguments.tokens + 1), "--temp", "0", "--ignore-eos", "--spec", "off"]
    command += ["-no-cnv", "-p", "The", "--json"]
    timings = output_of(command)["timings"]
    if timings["predicted_n"] != arguments.tokens + 1:
        sys.exit(f"aded: step \"compare\" failed: {timings['predicted_n']} tokens came, not {arguments.tokens + 1}")
    return arguments.tokens / (timings["predicted_ms"] / 1000)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path, help="the folder of llama-bench")
    parser.add_argument("-m", "--model", help="a GGUF file (default: the default model of the model store)")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-n", "--tokens", type=int, default=128)
    parser.add_argument("-r", "--pairs", type=int, default=9)
    parser.add_argument("--fa", choices=["on", "off", "auto"], default="auto", help="flash attention, on both sides")
    parser.add_argument("--aded", type=Path, default=ROOT / "target/release/aded")
    arguments = parser.parse_args()
    for program in (arguments.peers / "llama-bench", arguments.aded):
        if not program.is_file():
            sys.exit(f'aded: step "compare" failed: there is no {program}\naded: way out: build it first')
    if not arguments.model:
        fetched = subprocess.run([str(ROOT / "scripts/models.py")], stdout=subprocess.PIPE, text=True)
        if fetched.returncode != 0:
            sys.exit(fetched.returncode)
        arguments.model = fetched.stdout.strip()

    # Two threads that wait for each other on two busy cores are slowed tenfold, and not evenly.
    if os.getloadavg()[0] > 0.5:
        print(f"aded: the machine is busy (load {os.getloadavg()[0]:.1f}): the figures mean little", file=sys.stderr)
    print(f"model {arguments.model}, {arguments.threads} threads, {arguments.tokens} tokens, -fa {arguments.fa}")
    print("pair  first  llama-bench t/s  aded t/s  ratio")
    rows = []
    for pair in range(arguments.pairs):
        # The side that runs second may find a warmer or a hotter machine: each is second as often as first.
        if pair % 2 == 0:
            bench = bench_rate(arguments)
            aded = aded_rate(arguments)
        else:
            aded = aded_rate(arguments)
            bench = bench_rate(arguments)
        rows.append((bench, aded, aded / bench))
        first = "bench" if pair % 2 == 0 else "aded"
        print(f"{pair + 1:4}  {first:5}  {bench:15.2f}  {aded:8.2f}  {aded / bench:.3f}", flush=True)
    bench, aded, ratio = (sorted(column) for column in zip(*rows))
    quartiles = statistics.quantiles(ratio, n=4) if len(ratio) > 1 else [ratio[0]] * 3
    print(f"median  {statistics.median(bench):21.2f}  {statistics.median(aded):8.2f}  {statistics.median(ratio):.3f}")
    print(f"ratio: median {statistics.median(ratio):.3f}, quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f}")


if __name__ == "__main__":
    main()
