#!/usr/bin/env python3
"""Compares decoding with llama-server's speculations that need no second model, question by question.

One server for each arm: llama-server plain and with each of its n-gram types, and `aded serve` with our kernels and with
llama.cpp's. All are loaded at once; one computes at a time. Every question goes to every arm before the next one, in
an order that rotates. Rates are the servers' own (`timings`), decoding alone, pooled by task; llama-server's plain decoding is 1.
Standard library only. Example:

    scripts/compare-peers.py PEERS --prompts questions.jsonl --limit 5 -m model.gguf -o record.json

PEERS is the folder of llama-server. Build it from the llama.cpp that `aded` holds (vendor/README.md) with
-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON. The machine should do nothing else meanwhile.
"""

import argparse
import collections
import contextlib
import json
import sys
from pathlib import Path

from servers import Server

ROOT = Path(__file__).resolve().parent.parent
NGRAMS = ("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache")
MT_BENCH = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}


class Peer(Server):
    def answer(self, messages, n_tokens):
        """The answer's text, its number of tokens and the milliseconds of decoding."""
        body = {"messages": messages, "max_tokens": n_tokens, "temperature": 0}
        with self.post(body, 600) as answer:
            reply = json.load(answer)
        timings = reply["timings"]
        return reply["choices"][0]["message"]["content"] or "", timings["predicted_n"], timings["predicted_ms"]


def read_questions(path, limit):
    questions, taken = [], collections.Counter()
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        task = "mt_bench" if question["category"] in MT_BENCH else question["category"]
        if not limit or taken[task] < limit:
            taken[task] += 1
            questions.append((task, question["turns"]))
    return questions


def commands(arguments):
    common = ["-m", arguments.model, "-t", arguments.threads, "-c", arguments.context]
    llama = [arguments.peers / "llama-server", *common, "-np", 1, "--no-webui"]
    ours = [arguments.aded, "serve", *common, "--memory", "off"]
    yield "llama.cpp plain", llama
    for name in NGRAMS:
        yield name, [*llama, "--spec-type", name]
    yield "aded", ours
    yield "aded, llama.cpp's kernels", [*ours, "--kernels", "off"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path, help="folder of llama-server")
    parser.add_argument("--prompts", required=True, help="questions, as for aded bench")
    parser.add_argument("--limit", type=int, default=0, help="questions of each task (default all)")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-c", "--context", type=int, default=4096)
    parser.add_argument("-n", "--tokens", type=int, default=128)
    parser.add_argument("-o", "--output", help="file for every raw figure")
    parser.add_argument("--aded", type=Path, default=ROOT / "target/release/aded")
    arguments = parser.parse_args()

    questions = read_questions(arguments.prompts, arguments.limit)
    raw = []
    with contextlib.ExitStack() as stack:
        servers = []
        for name, command in commands(arguments):
            servers.append(Peer(name, command))
            stack.callback(servers[-1].stop)
        for server in servers:
            server.wait()
            server.answer([{"role": "user", "content": "Say hello."}], 16)
        for index, (task, turns) in enumerate(questions):
            for at in range(len(servers)):
                server = servers[(at + index) % len(servers)]
                messages = []
                for turn in turns:
                    messages.append({"role": "user", "content": turn})
                    text, n_tokens, ms = server.answer(messages, arguments.tokens)
                    messages.append({"role": "assistant", "content": text})
                    raw.append({"task": task, "question": index, "arm": server.name, "tokens": n_tokens, "ms": ms})
            print(f"{index + 1} of {len(questions)}", end="\r", file=sys.stderr, flush=True)

    names = [server.name for server in servers]
    sums = collections.defaultdict(lambda: [0, 0.0])
    for entry in raw:
        for task in (entry["task"], "all"):
            sums[task, entry["arm"]][0] += entry["tokens"]
            sums[task, entry["arm"]][1] += entry["ms"]

    def rate(task, name):
        tokens, ms = sums[task, name]
        return tokens / ms * 1e3

    print("\n| task | " + " | ".join(names) + " |")
    print("| --- |" + " ---: |" * len(names))
    for task in [*dict.fromkeys(task for task, _ in questions), "all"]:
        plain = rate(task, names[0])
        cells = [f"{plain:.0f} t/s"] + [f"{rate(task, name) / plain:.2f}x" for name in names[1:]]
        print(f"| {task} | " + " | ".join(cells) + " |")
    if arguments.output:
        record = {"model": Path(arguments.model).name, "threads": arguments.threads, "answers": raw}
        Path(arguments.output).write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
