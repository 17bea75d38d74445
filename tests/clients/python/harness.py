"""What the cases of sdk_test.py stand on: the clients, the comparisons, the run."""
import sys
import time
import traceback
import urllib.error
import urllib.request
from contextlib import contextmanager

import openai
from openai import OpenAI

HELLO = [{"role": "user", "content": "Hello there"}]
LONG_TOKENS = 1500
# The servers' own counts of generated tokens; llama.cpp's of steps, for it counts tokens when a call ends.
GENERATED = ("vllm:generation_tokens_total", "llamacpp:n_decode_total")
FINISHES = "the model server finishes a plain call that was given up"
CASES = []


def case(only_gateway=False):
    def register(function):
        CASES.append((function, only_gateway))
        return function

    return register


class Cannot(Exception):
    """The model server is of another make and lacks what a case is about."""


class Site:
    """Where the tests go, and the clients that they use."""

    def __init__(self, options):
        self.base_url = options.base_url
        self.key = options.key
        self.limited_key = options.limited_key
        self.upstream = options.upstream
        # Taken for granted where its address is not known.
        self.is_vllm = not self.upstream or self.upstream_status("/version") == 200
        self.body_limit_bytes = options.body_limit_bytes
        self.weather = [{"role": "user", "content": options.weather_prompt}]
        self.client = self.make_client()
        self.model = options.model or self.client.models.list().data[0].id

    def make_client(self, key=None, headers=None, **more):
        more.setdefault("max_retries", 0)
        more.setdefault("timeout", 30)
        return OpenAI(base_url=self.base_url, api_key=key or self.key, default_headers=headers, **more)

    def chat(self, client=None, **fields):
        fields = {"model": self.model, "messages": HELLO, "max_tokens": 32, "temperature": 0, **fields}
        return (client or self.client).chat.completions.create(**fields)

    def unless_vllm(self, can, reason):
        """Skips the rest of a case that a server of another make cannot pass; vLLM has to."""
        if not can and not self.is_vllm:
            raise Cannot(reason)

    def upstream_status(self, path):
        try:
            with urllib.request.urlopen(self.upstream.rstrip("/") + path, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def count_generated(self):
        """Tokens that the model server has generated so far, by its own count."""
        url = self.upstream.rstrip("/") + "/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        counts = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(GENERATED)]
        assert counts, f"the model server's /metrics has none of {GENERATED}"
        return sum(counts)

    @contextmanager
    def work_ends_early(self, of_stream=True):
        """What is begun and left inside must leave the model server idle long before its end."""
        if not self.upstream:
            yield
            return
        if not self.is_vllm and self.upstream_status("/metrics") != 200:
            yield
            raise Cannot("the model server does not count its work")
        before = self.count_generated()
        yield
        give_up = time.monotonic() + 5
        last, now = -1, self.count_generated()
        while now != last:
            self.unless_vllm(of_stream or now - before < LONG_TOKENS * 2 / 3, FINISHES)
            assert time.monotonic() < give_up, "the model server goes on generating"
            time.sleep(0.1)
            last, now = now, self.count_generated()
        made = now - before
        self.unless_vllm(of_stream or made < LONG_TOKENS * 2 / 3, FINISHES)
        assert 0 < made < LONG_TOKENS * 2 / 3, f"{made:g} of {LONG_TOKENS} tokens were generated"


def equal(found, wanted, what):
    assert found == wanted, f"{what}: found {found!r}, wanted {wanted!r}"


def refused(call, kind, status):
    """The error that `call` must raise, of exactly this class and status."""
    try:
        answer = call()
    except openai.APIStatusError as error:
        equal(type(error).__name__, kind.__name__, "class")
        equal(error.status_code, status, "status")
        inner = error.body
        assert isinstance(inner, dict), f"the body is no error object: {error.response.text!r}"
        assert isinstance(inner.get("message"), str) and inner["message"], f"no message in {inner!r}"
        assert inner["message"] in error.message, f"{error.message!r} hides {inner['message']!r}"
        equal(error.type, inner["type"], "type")
        return error
    raise AssertionError(f"no error, but {answer!r}")


def has_no_digits(error):
    text = error.body["message"]
    assert not any(letter.isdigit() for letter in text), f"digits in the gateway's own text: {text!r}"


def read_stream(stream):
    """Joined text, finish reason, usage chunks and all chunks of a chat stream with one choice."""
    chunks = list(stream)
    text, reasons, usages = "", [], []
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            if choice.finish_reason:
                reasons.append(choice.finish_reason)
        if chunk.usage is not None:
            usages.append((len(chunk.choices), chunk.usage))
    equal(len(reasons), 1, "number of finish reasons")
    return text, reasons[0], usages, chunks


def check_usage(usage, completion_tokens=None):
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, f"{usage!r}"
    equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens, "total_tokens")
    if completion_tokens is not None:
        equal(usage.completion_tokens, completion_tokens, "completion_tokens")


def run_cases(site, direct):
    """Runs every case that fits the server, one line each; exits 0 only if all hold."""
    failed = skipped = 0
    cases = [function for function, only_gateway in CASES if not (only_gateway and direct)]
    for function in cases:
        name = function.__name__.replace("_", " ")
        started = time.monotonic()
        try:
            note = function(site)
        except Cannot as reason:
            skipped += 1
            print(f"skip {name}: {reason}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {name}\n{traceback.format_exc()}", flush=True)
        else:
            took_ms = round((time.monotonic() - started) * 1000)
            print(f"ok   {name} ({took_ms} ms){': ' + note if note else ''}", flush=True)
    print(f"python sdk {openai.__version__}: {len(cases) - failed - skipped} passed, {failed} failed")
    sys.exit(1 if failed else 0)

