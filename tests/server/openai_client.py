#!/usr/bin/env python3
"""Uses the server as the official `openai` package does. Run by tests/server/clients.rs.

Usage: openai_client.py BASE_URL KEY
Ends with an error at the first thing that is not as its users expect.
"""

import json
import sys
import time
import urllib.request
from typing import Annotated, Literal

import openai
from pydantic import BaseModel, Field

base, key = sys.argv[1:]
client = openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0, timeout=300)
question = [{"role": "user", "content": "Name three colours."}]
common = {"model": "any", "temperature": 0, "max_tokens": 40}


def models():
    assert len(client.models.list().data) == 1


def chat_and_stream():
    whole = client.chat.completions.create(messages=question, seed=1, **common)
    text = whole.choices[0].message.content
    assert text and whole.usage.completion_tokens > 0, whole
    assert whole.model_extra["timings"]["predicted_n"] == whole.usage.completion_tokens
    stream = client.chat.completions.create(
        messages=question, seed=1, stream=True, stream_options={"include_usage": True}, **common
    )
    chunks = list(stream)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    # Drafts and batches change the order of sums; at a tie the texts may part, but not at the start.
    assert streamed[:12] == text[:12], (streamed, text)
    assert chunks[-1].usage.total_tokens > 0
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")


def completion():
    answer = client.completions.create(model="any", prompt="One, two,", max_tokens=5, temperature=0, logprobs=2)
    assert answer.choices[0].text and len(answer.choices[0].logprobs.token_logprobs) == 5


def logprobs():
    answer = client.chat.completions.create(messages=question, logprobs=True, top_logprobs=3, **common)
    rows = answer.choices[0].logprobs.content
    assert len(rows) == answer.usage.completion_tokens and len(rows[0].top_logprobs) == 3


class Colours(BaseModel):
    """What the schema test asks for: bounded, or a small model would go on for ever."""

    colours: Annotated[list[Literal["red", "green", "blue"]], Field(max_length=3)]
    count: Literal[1, 2, 3]


def json_schema():
    limits = {**common, "max_tokens": 200}
    answer = client.chat.completions.parse(messages=question, response_format=Colours, **limits)
    assert isinstance(answer.choices[0].message.parsed, Colours), answer
    answer = client.chat.completions.create(messages=question, response_format={"type": "json_object"}, **limits)
    choice = answer.choices[0]
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict), choice


def tools():
    parameters = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": parameters}}
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    limits = {**common, "max_tokens": 200}
    # Whether this small model calls it is its own choice; the request must be answered.
    assert client.chat.completions.create(messages=messages, tools=[tool], **limits).choices[0].finish_reason
    answer = client.chat.completions.create(messages=messages, tools=[tool], tool_choice="required", **limits)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls", choice
    call = choice.message.tool_calls[0]
    assert call.function.name == "weather" and isinstance(json.loads(call.function.arguments)["city"], str), call
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    assert client.chat.completions.create(messages=messages, tools=[tool], **common).choices[0].message


def errors():
    def fails(kind, work):
        try:
            work()
        except kind as error:
            return error
        raise AssertionError(f"{kind.__name__} was expected")

    error = fails(openai.BadRequestError, lambda: client.chat.completions.create(model="x", messages=[]))
    assert "messages" in error.message, error.message
    fails(openai.BadRequestError, lambda: client.chat.completions.create(messages=question, model="x", temperature=-1))
    fails(openai.NotFoundError, lambda: client.files.list())
    stranger = openai.OpenAI(base_url=f"{base}/v1", api_key="wrong", max_retries=0)
    fails(openai.AuthenticationError, stranger.models.list)
    long = [{"role": "user", "content": "word " * 20000}]
    error = fails(openai.BadRequestError, lambda: client.chat.completions.create(messages=long, **common))
    assert "context" in error.message, error.message


def cancel():
    def busy():
        request = urllib.request.Request(f"{base}/slots", headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request) as reply:
            return sum(slot["is_processing"] for slot in json.load(reply))

    stream = client.chat.completions.create(
        model="any", messages=question, stream=True, max_tokens=1800, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 60
    while busy():
        assert time.monotonic() < deadline, "the slot stays busy"
        time.sleep(0.05)


for test in [models, chat_and_stream, completion, logprobs, json_schema, tools, errors, cancel]:
    test()
    print(f"{test.__name__}: ok", flush=True)
