#!/usr/bin/env python3
"""Measures a server's throughput and latency at several numbers of clients: drafting on, off, and llama-server if given.

Needs the standard library alone. The arms take turns, in an order that alternates, and every raw figure is printed
as a line of JSON; a table of medians follows on standard error. Run it on an otherwise idle machine:

    scripts/bench-server.py --aded target/release/aded --model model.gguf > record.jsonl
    scripts/bench-server.py --aded target/release/aded --llama-server ~/llama.cpp/build/bin/llama-server \\
        --model model.gguf --clients 1,2,4,8 --repetitions 3 --threads 2 > record.jsonl

Each arm is a server process of its own with as many slots as the most clients; only one of them computes at a time.
Every client asks its share of the prompts one after the other, greedily. All arms answer the same prompts, and no server
sees one twice: it would draft from its own earlier answer. Answers are of different lengths, as in life: were they all equally
long, the clients of a server without drafts would ask in step to the end, and it would read all their prompts in one call.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import threading
import time

from servers import Server

TASKS = [
    "Explain in three sentences what {} is.",
    "Write a short Python class that models {}, with docstrings.",
    "List eight facts about {}, one a line.",
    "Write a JSON object that describes {}: name, summary, and a list of five keywords.",
    "Give four arguments for and four against {}.",
    "Write a polite e-mail that asks for advice on {}.",
    "Summarise the history of {} in a table with years.",
    "Write a dialogue of two friends about {}.",
]
TOPICS = (
    "a bicycle, a hash table, a volcano, working from home, a sailing boat, the printing press, a beehive, solar power, "
    "a chess club, the steam engine, a public library, a glacier, learning the piano, a coral reef, a compiler, tea, "
    "a railway station, the metric system, a vegetable garden, a lighthouse, night trains, a spreadsheet, a choir, "
    "drinking water, an orchard, chocolate, a city park, a telescope, winter sports, a bakery, an elevator, maps"
).split(", ")


def all_prompts(args):
    """Every prompt once: a server that has answered one before drafts from that answer."""
    if not args.prompts:
        return [task.format(topic) for topic in TOPICS for task in TASKS]
    with open(args.prompts, encoding="utf-8") as lines:
        return [json.loads(line)["turns"][0] for line in lines if line.strip()]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aded", required=True, help="the program aded")
    parser.add_argument("--llama-server", help="the program llama-server, as a third arm")
    parser.add_argument("--other", help="another build of aded, as a further arm")
    parser.add_argument("--model", required=True, help="model file with a chat template")
    parser.add_argument("--prompts", help="questions, one JSON object a line with `turns`, as for aded bench")
    parser.add_argument("--clients", default="1,2,4,8", help="numbers of clients")
    parser.add_argument("--requests", type=int, default=20, help="requests of each measurement")
    parser.add_argument("--tokens", type=int, default=128, help="limit of an answer's tokens, on average")
    parser.add_argument("--repetitions", type=int, default=3, help="measurements of each arm at each number of clients")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each server")
    parser.add_argument("--context", type=int, default=2048, help="tokens of each slot's context")
    return parser.parse_args()


class Client(Server):
    """A server that is asked."""

    def ask(self, prompt, n_tokens):
        """Streams one answer: seconds to the first token and in all, tokens, and the server's timings."""
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": n_tokens,
            "cache_prompt": False,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        begun, first, answered, timings = time.monotonic(), None, 0, {}
        with self.post(body, 3600) as reply:
            for line in reply:
                if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    sys.exit(f"{self.name}: {event['error']}")
                if first is None and any(choice["delta"].get("content") for choice in event["choices"]):
                    first = time.monotonic() - begun
                timings = event.get("timings") or timings
                answered = (event.get("usage") or {}).get("completion_tokens", answered)
        total = time.monotonic() - begun
        return {"first_s": first or total, "total_s": total, "tokens": answered, "timings": timings}


def measure(server, prompts, n_clients, n_tokens):
    """Lets so many clients ask all prompts."""
    # The same limits for every arm.
    numbers = random.Random(0)
    limits = [numbers.randint(max(1, n_tokens // 2), n_tokens * 3 // 2) for _ in prompts]
    waiting, answers, lock = list(zip(prompts, limits)), [], threading.Lock()

    def client():
        while True:
            with lock:
                if not waiting:
                    return
                prompt, limit = waiting.pop(0)
            answer = server.ask(prompt, limit)
            with lock:
                answers.append(answer)

    begun = time.monotonic()
    threads = [threading.Thread(target=client) for _ in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begun
    if len(answers) != len(prompts):
        sys.exit(f"{server.name}: {len(prompts) - len(answers)} of {len(prompts)} requests failed")
    each = [1e3 * (a["total_s"] - a["first_s"]) / max(a["tokens"] - 1, 1) for a in answers]
    return {
        "arm": server.name,
        "clients": n_clients,
        "tokens_per_second": sum(a["tokens"] for a in answers) / seconds,
        "first_token_ms": 1e3 * statistics.median(a["first_s"] for a in answers),
        "token_ms": statistics.median(each),
        "answer_s": statistics.median(a["total_s"] for a in answers),
        "drafted": sum(a["timings"].get("draft_n", 0) for a in answers),
        "accepted": sum(a["timings"].get("draft_n_accepted", 0) for a in answers),
    }


def main():
    args = arguments()
    counts = [int(count) for count in args.clients.split(",")]
    prompts = all_prompts(args)
    needed = 2 + len(counts) * args.repetitions * args.requests
    if len(prompts) < needed:
        sys.exit(f"{needed} prompts are needed, and there are {len(prompts)}: lower --requests or --repetitions, or give --prompts")
    prompts = iter(prompts)
    slots = max(counts)
    common = ["-m", args.model, "-np", str(slots), "-t", str(args.threads)]
    own = [args.aded, "serve", *common, "-c", str(args.context), "--memory", "off"]
    arms = {"aded": own, "aded --spec off": [*own, "--spec", "off"]}
    if args.other:
        arms["other aded"] = [args.other, *own[1:]]
    if args.llama_server:
        # It divides its context among the slots.
        arms["llama-server"] = [args.llama_server, *common, "-c", str(args.context * slots), "--no-webui"]
    servers = [Client(name, command) for name, command in arms.items()]
    rows = []
    try:
        first = list(itertools.islice(prompts, 2))
        for server in servers:
            server.wait()
            measure(server, first, 1, 16)
        for count in counts:
            for repetition in range(args.repetitions):
                asked = list(itertools.islice(prompts, args.requests))
                for server in servers if repetition % 2 == 0 else reversed(servers):
                    row = {**measure(server, asked, count, args.tokens), "repetition": repetition}
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    finally:
        for server in servers:
            server.stop()
    print("| clients | arm | tokens/s | of plain | first token, ms | each token, ms |", file=sys.stderr)
    print("| --- | --- | --- | --- | --- | --- |", file=sys.stderr)
    for count in counts:
        plain = statistics.median(
            row["tokens_per_second"] for row in rows if row["clients"] == count and row["arm"] == "aded --spec off"
        )
        for server in servers:
            own_rows = [row for row in rows if row["clients"] == count and row["arm"] == server.name]
            rate, first, each = (
                statistics.median(row[name] for row in own_rows)
                for name in ("tokens_per_second", "first_token_ms", "token_ms")
            )
            print(
                f"| {count} | {server.name} | {rate:.1f} | {rate / plain:.2f} | {first:.0f} | {each:.1f} |",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
