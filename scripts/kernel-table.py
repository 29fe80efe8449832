#!/usr/bin/env python3
"""What rows cost with our kernels, in units of llama.cpp's own plain step for the same file and context.

Runs `aded bench --curve` with our kernels and with llama.cpp's (flash attention on and off: the better counts) by turns,
and prints one line for each model and context. Standard library only. Example:

    scripts/kernel-table.py --pairs 3 --contexts 64,1024 model.gguf
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROWS = (1, 2, 4, 8, 16)
ARMS = {"ours": ("auto", "on"), "stock, fa on": ("off", "on"), "stock, fa off": ("off", "off")}


def curve(arguments, model, kernels, attention):
    command = [
        arguments.aded, "bench", "--curve", "-m", model, "-c", arguments.contexts, "-t", str(arguments.threads),
        "--rows", ",".join(map(str, ROWS)), "--kernels", kernels, "-fa", attention, "-o", "json",
    ]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f'aded: step "curve" failed with exit code {run.returncode}: {" ".join(map(str, command))}')
    return json.loads(run.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="GGUF files")
    parser.add_argument("--pairs", type=int, default=3, help="turns of all arms (default 3)")
    parser.add_argument("--contexts", default="64", help="contexts, a comma between them (default 64)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--aded", type=Path, default=ROOT / "target/release/aded")
    arguments = parser.parse_args()
    if os.getloadavg()[0] > 0.5:
        print(f"aded: the machine is busy (load {os.getloadavg()[0]:.1f}): the figures mean little", file=sys.stderr)
    print("| model, context | stock ms | " + " | ".join(f"{rows}" for rows in ROWS) + " | prefill | stock rows 4, 8, 16 |")
    print("| --- " * (len(ROWS) + 4) + "|")
    for model in arguments.models:
        ms, read = {}, {}
        for turn in range(arguments.pairs):
            arms = list(ARMS.items())
            for name, (kernels, attention) in arms if turn % 2 == 0 else reversed(arms):
                report = curve(arguments, model, kernels, attention)
                for entry in report["cost"]:
                    ms.setdefault((name, entry["used_cells"], entry["rows"]), []).append(entry["ms"])
                for cells, entry in zip(arguments.contexts.split(","), report["prefill"]):
                    read.setdefault((name, int(cells)), []).append(entry["tps"])
        middle = {key: statistics.median(values) for key, values in ms.items()}
        for cells in map(int, arguments.contexts.split(",")):
            stock = [name for name in ARMS if name != "ours"]
            best = min(stock, key=lambda name: middle[name, cells, 1])
            step = middle[best, cells, 1]
            ours = " | ".join(f"{middle['ours', cells, rows] / step:.2f}" for rows in ROWS)
            speed = statistics.median(read["ours", cells]) / max(statistics.median(read[name, cells]) for name in stock)
            theirs = ", ".join(f"{min(middle[name, cells, rows] for name in stock) / step:.2f}" for rows in (4, 8, 16))
            print(f"| {Path(model).name}, {cells} | {step:.2f} | {ours} | {speed:.2f}x | {theirs} |", flush=True)


if __name__ == "__main__":
    main()
