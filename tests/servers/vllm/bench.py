"""What the scenarios are made of: a vLLM that is started and ill-treated, a gateway before it, and calls.

Only the standard library. Every wait has a limit, and what was started here is stopped here.
"""
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
import urllib.request

KEY = "sk-prove-upstreams-of-tollgate"
START_LIMIT = 300
# No call may take longer, whatever happens to the server.
CALL_LIMIT = 330


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def until(what, limit, true):
    """Waits until `true()` is, and returns what it is."""
    deadline = time.monotonic() + limit
    while not (found := true()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {limit} s")
        time.sleep(0.1)
    return found


def get(url, limit=5):
    """A body, or None where nothing answers as it should."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {KEY}"})
    try:
        with urllib.request.urlopen(request, timeout=limit) as answer:
            return answer.read().decode()
    except (OSError, http.client.HTTPException):
        return None


class Server:
    """A vLLM of one port: COMMAND PORT OPTIONS."""

    def __init__(self, command, place, options=()):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [*shlex.split(command), str(self.port), *options]
        self.log = open(os.path.join(place, f"vllm-{self.port}.log"), "ab")
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def wait_until_up(self):
        def is_up():
            if self.process.poll() is not None:
                raise RuntimeError(f"vLLM ended with {self.process.returncode}: see {self.log.name}")
            return get(f"{self.url}/health", 2) is not None

        until("vLLM's start", START_LIMIT, is_up)

    def up(self):
        self.start()
        self.wait_until_up()
        return self

    def is_python(self):
        """Of vLLM's two front ends this one names itself."""
        with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
            return answer.headers.get("server") == "uvicorn"

    def terminate(self):
        """As a platform does it."""
        self.process.terminate()

    def kill(self):
        """All of it at once, as when a machine is gone."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        # Its engine may outlive it.
        until("the end of vLLM", 30, lambda: not self.members())

    def members(self):
        """What runs of it: its session is our own making."""
        if self.process is None:
            return []
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    comm, fields = file.read().split("(", 1)[1].rsplit(")", 1)
            except OSError:
                continue
            state, _, _, session = fields.split()[:4]
            if int(session) == self.process.pid and state != "Z":
                found.append((int(name), comm))
        return found

    def stop(self):
        for pid, _ in self.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.process:
            self.process.wait()

    def kill_engine(self):
        engines = [pid for pid, comm in self.members() if comm.startswith("VLLM::Engine")]
        if not engines:
            raise RuntimeError("this vLLM has no engine process")
        for pid in engines:
            os.kill(pid, signal.SIGKILL)

    def tokens(self):
        """Prompt and generated tokens by its own count."""
        sums = {"vllm:prompt_tokens_total": 0, "vllm:generation_tokens_total": 0}
        for line in (get(f"{self.url}/metrics") or "").splitlines():
            name = line.split("{")[0]
            if name in sums:
                sums[name] += int(float(line.rsplit(" ", 1)[1]))
        return tuple(sums.values())


class Gateway:
    def __init__(self, program, place, servers, **settings):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        keys = os.path.join(place, "keys.json")
        with open(keys, "w", encoding="utf-8") as file:
            json.dump({"prover": {"key": KEY, "admin": True}}, file)
        self.log = os.path.join(place, f"gateway-{self.port}.log")
        environment = {
            "PATH": os.environ["PATH"],
            "PORT": str(self.port),
            "VLLM_ENDPOINT": ",".join(server.url for server in servers),
            "API_KEYS_FILE": keys,
            "DATA_DIR": place,
            "DATABASE_URL": "none",
            "USAGE_SINK": "stdout",
            "LOG_FORMAT": "json",
            "COLD_START_WAIT_SECONDS": "240",
            "KEEPALIVE_SECONDS": "5",
            **settings,
        }
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([program], env=environment, stdout=log, stderr=log, cwd=place)
        until("the gateway's start", 10, lambda: get(f"{self.url}/health"))

    def states(self):
        ready = json.loads(get(f"{self.url}/ready") or "{}")
        return [one["state"] for one in ready.get("upstreams", [])]

    def wait_for(self, *states):
        until(f"upstream states {states}", 60, lambda: sorted(self.states()) == sorted(states))

    def rows(self):
        """Usage rows by request id; twice the same is a fault."""
        rows = {}
        with open(self.log, encoding="utf-8") as log:
            for line in log:
                if '"message":"usage"' in line:
                    row = json.loads(line)["usage"]
                    if row["request_id"] in rows:
                        raise AssertionError(f"two rows for {row['request_id']}")
                    rows[row["request_id"]] = row
        return rows

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)


class Call(threading.Thread):
    """One call and all that its client saw of it."""

    def __init__(self, gateway, tokens, stream, prompt="Tell me a story", limit=CALL_LIMIT):
        super().__init__(daemon=True)
        self.gateway, self.stream, self.limit = gateway, stream, limit
        self.body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
        }
        if stream:
            self.body |= {"stream": True, "stream_options": {"include_usage": True}}
        self.id = self.status = self.usage = self.error = self.retry_after = self.reason = None
        self.chunks = self.comments = 0
        self.is_done = self.is_cut = False
        self.began = time.monotonic()
        self.first_at = self.ended_at = None
        self.start()

    def run(self):
        try:
            self.exchange()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.is_cut = repr(error)
        self.ended_at = time.monotonic()

    def exchange(self):
        link = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=self.limit)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        link.request("POST", "/v1/chat/completions", json.dumps(self.body), headers)
        answer = link.getresponse()
        self.id, self.status = answer.getheader("x-request-id"), answer.status
        self.retry_after = answer.getheader("retry-after")
        if not (answer.getheader("content-type") or "").startswith("text/event-stream"):
            whole = json.loads(answer.read())
            self.error, self.usage = whole.get("error"), whole.get("usage")
            self.reason = [choice["finish_reason"] for choice in whole.get("choices", [])]
            return
        while line := answer.readline():
            self.take(line.strip())

    def take(self, line):
        if line.startswith(b":"):
            self.comments += 1
        elif line == b"data: [DONE]":
            self.is_done = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            self.error = self.error or event.get("error")
            self.usage = event.get("usage") or self.usage
            if any(choice["delta"].get("content") for choice in event.get("choices", [])):
                self.first_at = self.first_at or time.monotonic()
                self.chunks += 1

    def is_generating(self):
        return self.chunks > 2 or not self.is_alive()

    @property
    def seconds(self):
        return (self.ended_at or time.monotonic()) - self.began

    @property
    def end(self):
        """In one word: what the client has of it."""
        if self.is_alive():
            return "hangs"
        if self.is_cut:
            return "cut"
        if self.error:
            code = self.error.get("code")
            return f"{'event' if self.status == 200 else self.status} {code}"
        if self.stream and not self.is_done:
            return "bare end"
        if self.reason == ["abort"]:
            return "answer cut short"
        return "answer" if self.status == 200 and self.usage else f"{self.status} without an answer"


def finish(calls, limit):
    """Waits for the ends of calls, all together as long as `limit`."""
    deadline = time.monotonic() + limit
    for call in calls:
        call.join(max(0, deadline - time.monotonic()))
