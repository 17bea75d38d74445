#!/usr/bin/env python3
"""Writes down what a running server says, in the form of tests/data.

    record.py http://127.0.0.1:PORT FOLDER MODEL

Chunked framing is taken off; nothing else is changed.
"""
import http.client
import json
import pathlib
import sys
import urllib.parse

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string"}},
            "required": ["city", "unit"],
        },
    },
}


def exchanges(model):
    """Name, line and body of each."""
    hello = {"model": model, "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 32, "temperature": 0}
    weather = hello | {"messages": [{"role": "user", "content": "What is the weather like in Paris?"}], "max_tokens": 100}
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    continuous = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    long = hello | {"messages": [{"role": "user", "content": "Hello there, " * 20000}]}
    text = {"model": model, "prompt": "Hello", "max_tokens": 6, "temperature": 0}
    chat = "POST /v1/chat/completions"
    return [
        ("models", "GET /v1/models", None),
        ("version", "GET /version", None),
        ("chat", chat, hello),
        ("chat-stream", chat, hello | {"stream": True}),
        ("chat-stream-usage", chat, hello | usage),
        ("chat-stream-continuous", chat, hello | continuous),
        ("chat-stream-length", chat, hello | usage | {"max_tokens": 3}),
        ("chat-n2-stream", chat, hello | usage | {"n": 2}),
        ("tools", chat, weather | {"tools": [TOOL]}),
        ("tools-stream", chat, weather | usage | {"tools": [TOOL]}),
        ("tools-required-stream", chat, weather | usage | {"tools": [TOOL], "tool_choice": "required"}),
        ("chat-unknown-model", chat, hello | {"model": "no-such-model"}),
        ("chat-wrong-type", chat, hello | {"messages": "not a list"}),
        ("chat-too-long", chat, long),
        ("chat-too-long-stream", chat, long | usage),
        ("completions", "POST /v1/completions", text),
        ("completions-stream", "POST /v1/completions", text | usage),
        ("embeddings", "POST /v1/embeddings", {"model": model, "input": "Hello"}),
        ("responses", "POST /v1/responses", {"model": model, "input": "Hello there", "max_output_tokens": 32}),
        ("responses-stream", "POST /v1/responses", {"model": model, "input": "Hello there", "stream": True}),
        ("messages", "POST /v1/messages", hello),
        ("messages-stream", "POST /v1/messages", hello | {"stream": True}),
        ("tokenize", "POST /tokenize", {"model": model, "messages": hello["messages"]}),
    ]


def head(first, headers):
    return "\n".join([first, *(f"{name}: {value}" for name, value in headers)]) + "\n\n"


def record(site, folder, name, line, body):
    method, path = line.split()
    connection = http.client.HTTPConnection(site.hostname, site.port, timeout=60)
    text = b"" if body is None else json.dumps(body).encode()
    headers = {"Accept": "*/*"} | ({"Content-Type": "application/json", "Content-Length": str(len(text))} if text else {})
    connection.request(method, path, body=text or None, headers=headers)
    answer = connection.getresponse()
    came = answer.read()
    suffix = "" if answer.status == 200 else f"-{answer.status}"
    first = f"HTTP/1.1 {answer.status} {answer.reason}"
    # A prompt that is only long says nothing.
    shown = text if len(text) < 20000 else text[:200] + b"..."
    asked = head(f"{line} HTTP/1.1", {"Host": "127.0.0.1", **headers}.items())
    folder.joinpath(f"{name}{suffix}.request.http").write_bytes(asked.encode() + shown)
    folder.joinpath(f"{name}{suffix}.response.http").write_bytes(head(first, answer.getheaders()).encode() + came)
    print(f"{answer.status} {name} {answer.getheader('content-type')} {len(came)} bytes")


def main(url, folder, model):
    site, folder = urllib.parse.urlsplit(url), pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for exchange in exchanges(model):
        record(site, folder, *exchange)


if __name__ == "__main__":
    main(*sys.argv[1:])
