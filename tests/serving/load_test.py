"""A server under attack: its clients hardly notice, and its memory comes back."""

import json
import math
import os
import statistics
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from served import ask, small_artifact

for _name in ("starlette", "uvicorn", "prometheus_client", "tensorflow_serving"):
    pytest.importorskip(_name)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc"),
]

CLIENTS, SECONDS, ROUNDS = 64, 6, 3
# Each of 64 clients asks twice per second. It prints the seconds of each answer.
WORKING = """
    import http.client, json, random, sys, threading, time
    port, clients, seconds = map(int, sys.argv[1:])
    body = json.dumps({"inputs": {"token_ids": [[1, 2]], "weights": [[0.5, 0.25]]}})
    took, wrong, end = [], [], time.monotonic() + seconds

    def ask(connection):
        connection.request("POST", "/v1/models/small:predict", body)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    def work():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        time.sleep(random.uniform(0, 0.5))
        while time.monotonic() < end:
            begin = time.monotonic()
            try:
                status = ask(connection)
            except (OSError, http.client.HTTPException):  # it was closed while idle
                connection.close()
                status = ask(connection)
            took.append(time.monotonic() - begin)
            if status != 200:
                wrong.append(status)
            time.sleep(0.5)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"took": took, "wrong": wrong}))
"""
# 1,000 half headers and 200 half bodies; what is closed is opened again. Then, if there
# is a port of gRPC, 1,000 connections that say nothing and 200 half requests.
ATTACK = """
    import selectors, socket, sys, time
    sys.path.insert(0, sys.argv[4])
    import http2
    port, grpc_port, seconds = map(int, sys.argv[1:4])
    line = b"POST /v1/models/small:predict HTTP/1.1\\r\\nHost: localhost\\r\\n"
    kinds = [(port, line + b"X: ")] * 1000
    body = b"Content-Length: 1000000\\r\\n\\r\\n" + b" " * 500_000
    kinds += [(port, line + body)] * 200
    half = http2.opening() + http2.half_request(1, 10_000_000)
    if grpc_port:
        kinds += [(grpc_port, b"")] * 1000 + [(grpc_port, half)] * 200
    waiting = selectors.DefaultSelector()
    print("attacking", flush=True)

    def attack(kind):
        target, data = kind
        try:
            one = socket.create_connection(("127.0.0.1", target), timeout=5)
        except OSError:
            return
        one.setblocking(False)
        both = selectors.EVENT_READ | selectors.EVENT_WRITE
        waiting.register(one, both, [kind, data])

    def close(one):
        waiting.unregister(one)
        one.close()

    end, closed = time.monotonic() + seconds, list(kinds)
    opened, again = 0, 0.0
    while time.monotonic() < end:
        if closed and time.monotonic() > again:
            some = 100 if opened < len(kinds) else 5
            for kind in closed[:some]:
                attack(kind)
            opened += len(closed[:some])
            del closed[:some]
            again = time.monotonic() + 0.2
        for key, events in waiting.select(0.05):
            kind, data = key.data
            try:
                if events & selectors.EVENT_READ and not key.fileobj.recv(65536):
                    raise ConnectionError
                if events & selectors.EVENT_WRITE and data:
                    key.data[1] = data = data[key.fileobj.send(data[:65536]):]
                if not data:
                    waiting.modify(key.fileobj, selectors.EVENT_READ, key.data)
            except OSError:
                close(key.fileobj)
                closed.append(kind)
    print(opened, flush=True)
"""


def program(source, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )


def p99(port, rounds=ROUNDS):
    """The seconds within which 99 of 100 requests are answered, the median of rounds.

    Other processes of the machine disturb a round, and the server all of them.
    """
    found = []
    for _ in range(rounds):
        clients = program(WORKING, port, CLIENTS, SECONDS)
        one = json.loads(clients.communicate(timeout=120)[0])
        assert not one["wrong"], one["wrong"][:5]
        took = sorted(one["took"])
        assert len(took) > CLIENTS * SECONDS
        found.append(took[math.ceil(0.99 * len(took)) - 1])
    return statistics.median(found)


def resident(process):
    pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def served(tmp_path):
    """A server process, its ports, and the file of its log."""
    small_artifact(tmp_path / "small" / "1")
    log = tmp_path / "log"
    options = [str(tmp_path / "small"), "--json", "--port", "0", "--grpc-port", "0"]
    options += ["--header-timeout", "5", "--timeout", "10"]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "keras_attention.cli.main", "serve", *options],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 120
        while '"started"' not in log.read_text():
            assert time.monotonic() < end, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        lines = [json.loads(x) for x in log.read_text().splitlines() if x[0] == "{"]
        started = next(line for line in lines if line["event"] == "started")
        yield process, started["rest"], started["grpc"], log
    finally:
        process.terminate()
        process.wait(60)


def under_attack(process, port, grpc_port):
    """What an attack changes: the 99th percentiles, the memory, the connections."""
    before, memory = p99(port), resident(process)
    seconds = ROUNDS * (SECONDS + 3) + 8
    tests = Path(__file__).parents[1]
    attack = program(ATTACK, port, grpc_port, seconds, tests)
    assert attack.stdout
    assert attack.stdout.readline() == "attacking\n"
    time.sleep(8)  # now all connections are there
    during, peak = p99(port), resident(process)
    opened = int(attack.communicate(timeout=120)[0])
    end = time.monotonic() + 60
    while resident(process) > 1.1 * memory and time.monotonic() < end:
        time.sleep(0.5)
    return before, during, (memory, peak, resident(process)), opened


@pytest.mark.parametrize("protocols", ["REST", "REST and gRPC"])
def test_64_clients_work_while_1200_connections_wait(
    served, protocols, record_property
):
    process, port, grpc_port, log = served
    p99(port, 1)  # warms up
    target = 0 if protocols == "REST" else grpc_port
    attempts, before, during, memory, opened, written = 0, 0.0, 1.0, (), 0, 0
    # Another process may disturb an attempt.
    while attempts < 3 and during >= 2 * before:
        attempts += 1
        written = log.stat().st_size
        before, during, memory, opened = under_attack(process, port, target)
        written = log.stat().st_size - written
        assert opened >= (2400 if target else 1200)
        assert memory[-1] <= 1.1 * memory[0], memory
        assert written < 1_000_000
        assert ask(port, "GET", "/readyz")[0] == 200
    sizes = ", ".join(str(size >> 20) for size in memory)
    record_property(
        "summary",
        f"{protocols}: p99 {before * 1e3:.1f} ms, {during * 1e3:.1f} ms under attack "
        f"({opened} connections, attempt {attempts}); memory before, during and "
        f"after {sizes} MiB; log {written} bytes",
    )
    assert during < 2 * before, (before, during)
