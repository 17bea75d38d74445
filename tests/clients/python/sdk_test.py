#!/usr/bin/env python3
"""The official OpenAI SDK for Python against a running server.

    sdk_test.py --base-url http://127.0.0.1:8000/v1 --key KEY [--model ID] [--upstream URL]
    sdk_test.py --direct --base-url http://127.0.0.1:8001/v1

With --direct the server is the model server itself: what only the gateway does
(keys, body limit, retrieving one model) is left out.  --upstream is the model
server behind the gateway; its /metrics then prove that an abort reached it.

One line per promise, and a closing line with the totals.  Exit 0 only if all hold.
"""
import argparse
import json
import time

import openai
from harness import LONG_TOKENS, Site, case, check_usage, equal, has_no_digits, read_stream, refused, run_cases
from openai import DefaultHttpxClient, Omit, OpenAI

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "Rome"]},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
# A stream of this many tokens takes seconds, so that it can be left in the middle: vLLM goes
# on because of ignore_eos, the project's own model server because of the directive.
LONG = {
    "messages": [{"role": "user", "content": f"Tell me a story [[tokens={LONG_TOKENS} delay_ms=3]]"}],
    "max_tokens": LONG_TOKENS,
    "extra_body": {"ignore_eos": True},
}


@case()
def models_are_listed(site):
    models = site.client.models.list().data
    assert site.model in [model.id for model in models], f"{site.model} is not in {models!r}"
    equal({model.object for model in models}, {"model"}, "object")


@case(only_gateway=True)
def a_model_is_retrieved_also_with_a_slash_in_its_id(site):
    ids = [model.id for model in site.client.models.list().data]
    for name in ids:
        equal(site.client.models.retrieve(name).id, name, "id")
    return None if any("/" in name for name in ids) else f"none had a slash: {ids}"


@case(only_gateway=True)
def every_spelling_of_the_base_url_works(site):
    root = site.base_url.rstrip("/").removesuffix("/v1")
    for base_url in (root, root + "/", root + "/v1/", root + "//v1", root + "/v1/v1"):
        client = OpenAI(base_url=base_url, api_key=site.key, max_retries=0, timeout=30)
        assert site.model in [model.id for model in client.models.list().data], base_url
        assert site.chat(client).choices[0].message.content, base_url


@case(only_gateway=True)
def every_listed_model_answers(site):
    for name in [model.id for model in site.client.models.list().data]:
        assert site.chat(model=name).choices[0].message.content, f"{name} said nothing"


@case()
def chat_answers(site):
    answer = site.chat()
    assert answer.choices[0].message.content
    equal(answer.choices[0].message.role, "assistant", "role")
    equal(answer.choices[0].finish_reason, "stop", "finish_reason")
    check_usage(answer.usage)


@case()
def a_stream_says_what_the_plain_call_says(site):
    plain = site.chat()
    text, reason, usages, _ = read_stream(site.chat(stream=True))
    equal(text, plain.choices[0].message.content, "content")
    equal(reason, plain.choices[0].finish_reason, "finish_reason")
    equal(usages, [], "usage without being asked")


@case()
def a_stream_carries_usage_when_asked(site):
    plain = site.chat().usage
    _, _, usages, chunks = read_stream(site.chat(stream=True, stream_options={"include_usage": True}))
    site.unless_vllm(usages, "the model server counts no streams")
    equal(len(usages), 1, "usage chunks")
    choices, usage = usages[0]
    equal(choices, 0, "choices in the usage chunk")
    assert chunks[-1].usage is usage, "the usage chunk is not the last one"
    check_usage(usage, plain.completion_tokens)
    equal(usage.prompt_tokens, plain.prompt_tokens, "prompt_tokens")


@case()
def include_usage_false_shows_none(site):
    _, _, usages, _ = read_stream(site.chat(stream=True, stream_options={"include_usage": False}))
    equal(usages, [], "usage")


@case()
def length_ends_a_stream(site):
    _, reason, usages, _ = read_stream(
        site.chat(max_tokens=3, stream=True, stream_options={"include_usage": True})
    )
    equal(reason, "length", "finish_reason")
    site.unless_vllm(usages, "the model server counts no streams")
    check_usage(usages[0][1], 3)


@case()
def a_tool_is_called_and_its_answer_taken(site):
    asked = site.chat(messages=site.weather, tools=[WEATHER_TOOL], max_tokens=100).choices[0]
    site.unless_vllm(asked.message.tool_calls, "the model server parses no tool calls")
    equal(asked.finish_reason, "tool_calls", "finish_reason")
    call = asked.message.tool_calls[0]
    equal(call.function.name, "get_weather", "name")
    equal(json.loads(call.function.arguments)["city"], "Paris", "city")
    history = site.weather + [
        asked.message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"},
    ]
    told = site.chat(messages=history, tools=[WEATHER_TOOL], max_tokens=100).choices[0]
    equal(told.finish_reason, "stop", "finish_reason after the answer")
    assert told.message.content and not told.message.tool_calls, f"{told!r}"


@case()
def a_streamed_tool_call_is_the_plain_one(site):
    plain = site.chat(messages=site.weather, tools=[WEATHER_TOOL], max_tokens=100)
    site.unless_vllm(plain.choices[0].message.tool_calls, "the model server parses no tool calls")
    name, arguments, ids, reasons = "", "", [], []
    stream = site.chat(messages=site.weather, tools=[WEATHER_TOOL], max_tokens=100, stream=True)
    for chunk in stream:
        for choice in chunk.choices:
            for piece in choice.delta.tool_calls or []:
                ids += [piece.id] if piece.id else []
                name += piece.function.name or ""
                arguments += piece.function.arguments or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    wanted = plain.choices[0].message.tool_calls[0].function
    equal((name, json.loads(arguments)), (wanted.name, json.loads(wanted.arguments)), "call")
    equal(len(ids), 1, "number of call ids")
    equal(reasons, ["tool_calls"], "finish_reason")


@case()
def two_choices_come_at_once(site):
    try:
        answer = site.chat(n=2, temperature=0.5)
    except openai.BadRequestError as error:
        # vLLM's Rust front end takes one choice only, and says so.
        assert "n=1" in error.message, error.message
        return error.message
    site.unless_vllm(len(answer.choices) > 1, "the model server makes one choice only")
    equal([choice.index for choice in answer.choices], [0, 1], "indexes")
    ends = {}
    usage = None
    stream = site.chat(n=2, temperature=0.5, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    equal(sorted(ends), [0, 1], "choices that ended")
    check_usage(usage)


@case()
def logprobs_pass(site):
    choice = site.chat(logprobs=True, top_logprobs=2).choices[0]
    if choice.logprobs is None:
        return "the model server gives none"
    first = choice.logprobs.content[0]
    assert first.logprob <= 0 and len(first.top_logprobs) == 2, f"{first!r}"
    count = 0
    for chunk in site.chat(logprobs=True, top_logprobs=2, stream=True):
        for piece in chunk.choices:
            count += len(piece.logprobs.content) if piece.logprobs and piece.logprobs.content else 0
    site.unless_vllm(
        count != len(choice.logprobs.content) - 1, "the model server counts the end of a plain answer, too"
    )
    equal(count, len(choice.logprobs.content), "tokens with logprobs")


@case()
def text_completions_stream(site):
    fields = {"model": site.model, "prompt": "Hello", "max_tokens": 8, "temperature": 0}
    plain = site.client.completions.create(**fields)
    check_usage(plain.usage)
    text, reasons = "", []
    for chunk in site.client.completions.create(stream=True, **fields):
        equal(chunk.usage, None, "usage without being asked")
        for choice in chunk.choices:
            text += choice.text
            reasons += [choice.finish_reason] if choice.finish_reason else []
    equal((text, reasons), (plain.choices[0].text, [plain.choices[0].finish_reason]), "text")


@case()
def responses_answer_where_they_are_served(site):
    fields = {"model": site.model, "input": "Hello there", "temperature": 0, "max_output_tokens": 32}
    try:
        plain = site.client.responses.create(**fields)
    except openai.NotFoundError:
        return "not served here: NotFoundError"
    equal(plain.status, "completed", "status")
    text, last = "", None
    for event in site.client.responses.create(stream=True, **fields):
        last = event
        text += event.delta if event.type == "response.output_text.delta" else ""
    equal(last.type, "response.completed", "last event")
    equal(text, plain.output_text, "text")
    equal(last.response.usage.output_tokens, plain.usage.output_tokens, "output_tokens")


@case()
def embeddings_of_a_generating_model_are_refused(site):
    try:
        answer = site.client.embeddings.create(model=site.model, input="Hello", encoding_format="float")
    except (openai.NotFoundError, openai.BadRequestError) as error:
        return type(error).__name__
    except openai.InternalServerError as error:
        site.unless_vllm(False, f"the model server fails on embeddings: {error.message}")
        raise
    assert answer.data[0].embedding, "neither refused nor answered"


@case()
def an_unknown_model_is_not_found(site):
    refused(lambda: site.chat(model="no-such-model"), openai.NotFoundError, 404)
    refused(lambda: list(site.chat(model="no-such-model", stream=True)), openai.NotFoundError, 404)


@case()
def a_wrong_type_is_a_bad_request(site):
    try:
        site.chat(messages="not a list")
    except openai.InternalServerError:
        site.unless_vllm(False, "the model server fails on a wrong type")
        raise
    except openai.BadRequestError:
        pass
    refused(lambda: site.chat(messages="not a list"), openai.BadRequestError, 400)
    refused(lambda: site.chat(max_tokens="many"), openai.BadRequestError, 400)


@case(only_gateway=True)
def a_wrong_key_is_an_authentication_error(site):
    wrong = site.make_client(key="sk-wrong-but-of-a-plausible-length-0123456789")
    error = refused(lambda: site.chat(wrong), openai.AuthenticationError, 401)
    equal(error.code, "invalid_api_key", "code")
    has_no_digits(error)
    refused(lambda: list(site.chat(wrong, stream=True)), openai.AuthenticationError, 401)
    refused(lambda: wrong.models.list(), openai.AuthenticationError, 401)


# The SDK leaves Authorization out only when each call says so; among the default headers it
# can be made empty, and then it comes as an empty header.
BARE = {"Authorization": Omit()}


@case(only_gateway=True)
def a_missing_key_is_an_authentication_error(site):
    for defaults, extra in (
        ({}, BARE),
        ({"X-API-Key": ""}, BARE),
        ({"Authorization": ""}, {}),
        ({"Authorization": "", "X-API-Key": ""}, {}),
    ):
        client = site.make_client(headers=defaults)
        error = refused(lambda: site.chat(client, extra_headers=extra), openai.AuthenticationError, 401)
        equal(error.code, "missing_api_key", "code")
        has_no_digits(error)


@case(only_gateway=True)
def the_key_is_taken_from_either_header(site):
    for defaults, extra in (
        ({"X-API-Key": site.key}, BARE),
        ({"X-API-Key": site.key, "Authorization": ""}, {}),
        ({"X-API-Key": site.key}, {}),
        ({"X-API-Key": site.key, "Authorization": "Bearer something-of-cloud-run"}, {}),
        ({"X-API-Key": ""}, {}),
    ):
        client = site.make_client(headers=defaults)
        assert site.chat(client, extra_headers=extra).choices[0].message.content
        assert read_stream(site.chat(client, stream=True, extra_headers=extra))[0]


@case(only_gateway=True)
def x_api_key_decides_when_both_come(site):
    client = site.make_client(headers={"X-API-Key": "sk-wrong-but-of-a-plausible-length-0123456789"})
    error = refused(lambda: site.chat(client), openai.AuthenticationError, 401)
    equal(error.code, "invalid_api_key", "code")


@case(only_gateway=True)
def too_large_a_body_is_refused(site):
    large = [{"role": "user", "content": "x" * (site.body_limit_bytes + 1000)}]
    error = refused(lambda: site.chat(messages=large), openai.APIStatusError, 413)
    equal(error.code, "body_too_large", "code")
    has_no_digits(error)


@case(only_gateway=True)
def every_answer_has_a_request_id(site):
    seen = {site.chat()._request_id for _ in range(3)}
    equal(len(seen), 3, "request ids")
    error = refused(lambda: site.chat(model="no-such-model"), openai.NotFoundError, 404)
    assert error.request_id and error.request_id not in error.message


@case(only_gateway=True)
def a_used_up_budget_is_a_rate_limit_error_and_asked_once(site):
    if not site.limited_key:
        return "no key with a budget was given"
    asked = []
    counting = DefaultHttpxClient(event_hooks={"request": [asked.append]})
    # The SDK's own retries: it must not use them.
    client = site.make_client(key=site.limited_key, max_retries=2, http_client=counting)
    story = {"messages": [{"role": "user", "content": "Tell me a story [[tokens=400]]"}], "max_tokens": 400}
    for _ in range(100):
        try:
            site.chat(client, **story)
        except openai.RateLimitError:
            break
    for stream in (False, True):
        asked.clear()
        began = time.monotonic()
        error = refused(lambda: list(site.chat(client, stream=stream, **story)), openai.RateLimitError, 429)
        took = time.monotonic() - began
        equal((error.code, error.type), ("token_limit_exceeded", "insufficient_quota"), "code and type")
        equal(len(asked), 1, "requests")
        assert took < 3, f"it took {took:.1f} s"
        assert "token limit" in error.message, error.message
        has_no_digits(error)


@case()
def a_stream_can_be_left_in_the_middle(site):
    with site.work_ends_early():
        stream = site.chat(stream=True, **LONG)
        for seen, _ in enumerate(stream):
            if seen == 20:
                break
        stream.close()
    assert site.chat().choices[0].message.content


@case()
def a_plain_call_can_be_given_up(site):
    hasty = site.make_client(timeout=0.7)
    with site.work_ends_early(of_stream=False):
        try:
            site.chat(hasty, **LONG)
        except openai.APITimeoutError:
            pass
        else:
            site.unless_vllm(False, "the model server knows no ignore_eos: the call was over before its timeout")
            raise AssertionError("the call was over before its timeout")
    assert site.chat().choices[0].message.content


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--base-url", required=True)
    options.add_argument("--key", default="sk-no-key-is-asked-for")
    options.add_argument("--model", help="default: the first one listed")
    options.add_argument(
        "--weather-prompt",
        default="What is the weather like in Paris?",
        help="what makes the model call the tool get_weather",
    )
    options.add_argument("--upstream", help="address of the model server, for its /metrics")
    options.add_argument("--limited-key", help="a key with a token budget of a few thousand, to be used up")
    options.add_argument("--body-limit-bytes", type=int, default=33554432)
    options.add_argument("--direct", action="store_true")
    options = options.parse_args()
    run_cases(Site(options), options.direct)


if __name__ == "__main__":
    main()
