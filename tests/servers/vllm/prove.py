"""Ill-treats a real vLLM under calls through a gateway, and holds what clients and rows show against
what is promised. Started by scripts/prove-upstreams.sh.

    prove.py GATEWAY-PROGRAM PLACE COMMAND [SCENARIO...]
"""
import collections
import sys
import time

from bench import Call, Gateway, Server, finish, until

LONG = "--max-model-len=32768"
# A stream that lasts until it is disturbed.
ENDLESS = 32000
# Health is asked after ten seconds of silence; the rest is for a busy machine.
GIVEN_UP = 25
ERRORS = {"502 upstream_error", "event 502", "event 500"}

faults = []


def promise(kept, text):
    if not kept:
        faults.append(f"{current}: {text}")
        print(f"    BROKEN: {text}", flush=True)


def show(what, calls):
    """One line of the table."""
    ends = collections.Counter(call.end for call in calls)
    kinds = ", ".join(f"{count} x {end}" for end, count in sorted(ends.items()))
    longest = max((call.seconds for call in calls), default=0)
    comments = sum(call.comments for call in calls)
    print(f"  {what:<38} {kinds:<58} longest {longest:5.1f} s  comments {comments}", flush=True)


def check_rows(gateway, calls):
    """Exactly one row for each call, which says what its client saw."""
    ids = {call.id for call in calls}
    until("rows", 10, lambda: ids <= gateway.rows().keys())
    rows = gateway.rows()
    promise(len(rows) == len(calls), f"{len(rows)} rows for {len(calls)} calls")
    for call in calls:
        row = rows[call.id]
        seen = {key: row.get(key) for key in ("status", "outcome", "error_code", "counted_by", "wait_ms")}
        promise(row["status"] == call.status, f"status {call.status}, row {seen}")
        if call.end.startswith("answer"):
            usage = call.usage
            tokens = (row["prompt_tokens"], row["completion_tokens"], row["counted_by"])
            promise(row["outcome"] == "complete", f"an answer, row {seen}")
            promise(tokens == (usage["prompt_tokens"], usage["completion_tokens"], "engine"), f"{usage}, row {tokens}")
        else:
            promise(row["outcome"] != "complete", f"{call.end}, row {seen}")
            promise(row.get("error_code"), f"{call.end}, row {seen}")
            if call.chunks:
                counted = row.get("completion_tokens") or 0
                # What came after the last count that was read is a token or two.
                promise(row["counted_by"] in ("running", "engine") and counted >= call.chunks - 2,
                        f"{call.chunks} chunks seen, row {counted} {seen}")
    return [rows[call.id] for call in calls]


def expect(calls, ends, limit):
    wrong = [call for call in calls if call.end not in ends]
    promise(not wrong, f"wanted {sorted(ends)}: {[(call.end, call.error, call.reason, call.usage) for call in wrong][:4]}")
    late = [round(call.seconds, 1) for call in calls if call.seconds > limit]
    promise(not late, f"took longer than {limit} s: {late}")


def pair(gateway, tokens, count=3, **options):
    """As many streams as plain calls."""
    return [Call(gateway, tokens, stream, **options) for stream in (True, False) for _ in range(count)]


def start(bench):
    """Calls come before the server does."""
    server = bench.server()
    gateway = bench.gateway(server)
    calls = pair(gateway, 20)
    gateway.wait_for("starting")
    server.up()
    up_at = time.monotonic()
    finish(calls, 60)
    show("before it starts", calls)
    expect(calls, {"answer"}, 300)
    behind = max(call.ended_at for call in calls) - up_at
    print(f"  the last answer came {behind:.1f} s after /health", flush=True)
    promise(all(call.comments >= 2 for call in calls if call.stream), "streams got no comments")
    gateway.wait_for("ready")
    after = pair(gateway, 20, 1)
    finish(after, 60)
    show("when it is up", after)
    expect(after, {"answer"}, 60)
    rows = check_rows(gateway, calls + after)
    waits = [row["wait_ms"] / 1000 for row in rows]
    close = [abs(wait - call.seconds) < 10 for wait, call in zip(waits, calls)]
    promise(all(close), f"waits {waits} of calls that took {[round(call.seconds) for call in calls]}")
    promise(not any(waits[len(calls):]), f"calls to a server that is up waited {waits[len(calls):]}")
    promise(all(row["attempts"] == 1 for row in rows), "a call was sent twice")
    check_counters(server, rows)


def check_counters(server, rows):
    mine = tuple(sum(row[column] for row in rows) for column in ("prompt_tokens", "completion_tokens"))
    theirs = server.tokens()
    print(f"  tokens: rows {mine}, engine {theirs}", flush=True)
    promise(mine == theirs, f"rows say {mine} tokens, the engine {theirs}")


def drain(bench):
    """The server is told to end and finishes what it has."""
    server = bench.server(LONG, "--shutdown-timeout=60").up()
    gateway = bench.gateway(server)
    is_python = server.is_python()
    under_way = [Call(gateway, 4000, True) for _ in range(2)] + [Call(gateway, 4000, False) for _ in range(2)]
    until("tokens", 60, lambda: all(call.is_generating() for call in under_way if call.stream))
    server.terminate()
    late = []
    while server.process.poll() is None and len(late) < 10:
        late += [Call(gateway, 20, True), Call(gateway, 20, False)]
        time.sleep(1)
    server.process.wait(120)
    ended_at = time.monotonic()
    finish(under_way, 10)
    show("under way", under_way)
    expect(under_way, {"answer"}, 120)
    server.up()
    finish(late, 60)
    show("while it drains and is gone", late)
    print(f"  away for {time.monotonic() - ended_at:.0f} s", flush=True)
    streams, plain = late[::2], late[1::2]
    expect(streams, {"answer"}, 300)
    # The front end in Rust takes connections that nobody reads, and cuts them at its end: a plain call
    # might have begun there.
    expect(plain, {"answer"} if is_python else {"answer", "502 upstream_error"}, 300)
    rows = {row["request_id"]: row for row in check_rows(gateway, under_way + late)}
    waited = [call for call in late if call.end == "answer"]
    promise(all(rows[call.id]["wait_ms"] > 1000 for call in waited), "calls that waited have no wait_ms")


def stop(bench):
    """The server is stopped with answers under way."""
    server = bench.server(LONG).up()
    gateway = bench.gateway(server)
    calls = pair(gateway, ENDLESS, 2)
    until("tokens", 60, lambda: all(call.is_generating() for call in calls if call.stream))
    server.terminate()
    told_at = time.monotonic()
    finish(calls, GIVEN_UP + 10)
    show("under way", calls)
    # Told to end, vLLM may still end a plain answer where it is.
    expect(calls, ERRORS | {"answer cut short"}, 120)
    last = max((call.ended_at or time.monotonic()) - told_at for call in calls)
    print(f"  given up {last:.1f} s after the signal", flush=True)
    promise(last <= GIVEN_UP, f"given up only after {last:.1f} s")
    check_rows(gateway, calls)


def engine(bench):
    """The engine dies, the server after it, and comes back."""
    server = bench.server(LONG).up()
    gateway = bench.gateway(server)
    calls = pair(gateway, ENDLESS, 2)
    until("tokens", 60, lambda: all(call.is_generating() for call in calls if call.stream))
    server.kill_engine()
    finish(calls, GIVEN_UP)
    show("under way", calls)
    expect(calls, ERRORS, 120)
    server.process.wait(60)
    late = pair(gateway, 20, 2)
    gateway.wait_for("starting")
    server.up()
    finish(late, 60)
    show("while it is away", late)
    expect(late, {"answer"}, 300)
    rows = check_rows(gateway, calls + late)
    promise(all(row["wait_ms"] > 1000 for row in rows[len(calls):]), "calls that waited have no wait_ms")


def with_short_queue(bench, *options):
    """None where vLLM does not start so: its front end in Rust does not know such a limit."""
    try:
        return bench.server(*options).up()
    except RuntimeError as error:
        print(f"  skipped: a short queue: {error}", flush=True)
        return None


def queue(bench):
    """More calls than the queue takes."""
    server = with_short_queue(bench, "--max-num-seqs=2", "--max-num-queued-reqs=4")
    if server is None:
        return
    gateway = bench.gateway(server)
    calls = pair(gateway, 400, 8)
    finish(calls, 120)
    show("at once", calls)
    # vLLM in Python has sent a stream's head before it looks at its queue.
    expect(calls, {"answer", "503 overloaded", "event 503"}, 120)
    refused = [call for call in calls if call.status == 503]
    promise(refused and any(call.end == "answer" for call in calls), f"{len(refused)} of {len(calls)} were refused")
    promise(all(call.retry_after == "2" for call in refused), "a refusal has no Retry-After")
    promise(gateway.states() == ["ready"], f"a full queue is no start: {gateway.states()}")
    check_counters(server, [row for row in check_rows(gateway, calls) if row["outcome"] == "complete"])


def two(bench):
    """Two servers: one's queue is full, then it is killed under load, and comes back."""
    small = with_short_queue(bench, LONG, "--max-num-seqs=2", "--max-num-queued-reqs=1")
    small = small or bench.server(LONG).up()
    big = bench.server(LONG).up()
    gateway = bench.gateway(small, big)
    calls = pair(gateway, 100, 8)
    finish(calls, 120)
    show("at once, one queue too short", calls)
    expect(calls, {"answer"}, 120)
    sent = [row["upstream"] for row in check_rows(gateway, calls)]
    promise(len(set(sent)) == 2, "not both were used")
    load = Load(gateway)
    load.run(5)
    small.kill()
    killed_at = time.monotonic()
    load.run(10)
    small.start()
    load.run_while(lambda: small.url not in load.upstreams_since(killed_at), 240)
    load.run(3)
    finish(load.calls, 60)
    show("load of 5 calls a second", load.calls)
    broken = [call for call in load.calls if call.end != "answer"]
    expect(broken, ERRORS, 60)
    promise(all(call.began <= killed_at for call in broken), "a call failed that began after the kill")
    check_rows(gateway, calls + load.calls)
    promise(small.url in load.upstreams_since(killed_at), "the server that came back got no calls")


class Load:
    def __init__(self, gateway):
        self.gateway, self.calls = gateway, []

    def run(self, seconds):
        until_at = time.monotonic() + seconds
        self.run_while(lambda: time.monotonic() < until_at, seconds + 1)

    def run_while(self, wanted, limit):
        deadline = time.monotonic() + limit
        while wanted() and time.monotonic() < deadline:
            count = len(self.calls)
            self.calls.append(Call(self.gateway, 200, count % 2 == 0, prompt=f"Story number {count}"))
            time.sleep(0.2)

    def upstreams_since(self, at):
        rows = self.gateway.rows()
        ended = [call for call in self.calls if call.began > at and call.id in rows]
        return {rows[call.id]["upstream"] for call in ended}


class Bench:
    """What a scenario starts, so that it is stopped."""

    def __init__(self, program, place, command):
        self.program, self.place, self.command = program, place, command
        self.started = []

    def server(self, *options):
        server = Server(self.command, self.place, options)
        self.started.append(server)
        return server

    def gateway(self, *servers, **settings):
        gateway = Gateway(self.program, self.place, servers, **settings)
        self.started.append(gateway)
        return gateway

    def stop(self):
        while self.started:
            self.started.pop().stop()


SCENARIOS = {one.__name__: one for one in (start, drain, stop, engine, queue, two)}

if __name__ == "__main__":
    program, place, command, *names = sys.argv[1:]
    for current in names or SCENARIOS:
        bench = Bench(program, place, command)
        print(f"{current}: {SCENARIOS[current].__doc__}", flush=True)
        try:
            SCENARIOS[current](bench)
        except (TimeoutError, RuntimeError, AssertionError) as error:
            promise(False, repr(error))
        finally:
            bench.stop()
    print("\n".join(["", *faults, f"{len(faults)} promises broken"]) if faults else "\nall promises kept")
    sys.exit(1 if faults else 0)
