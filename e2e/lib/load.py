#!/usr/bin/env python3
"""HTTP clients that ask without pause and count every answer exactly: what was answered by whom, and each request that failed.

    load = Load("10.77.0.11", 30000, clients=16, fresh=4, rate=500)
    load.more(1000)                 # waits for so many requests more
    load.end()                      # AssertionError where one failed; the result otherwise

It runs as a process of its own (this file), also in a node of the lab, by `inside=`. A request has failed when its answer is not 200, is
not whole, or does not come within the timeout; one that finds its kept connection closed before a byte of an answer came has failed, too.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import threading
import time

if __name__ != "__main__":
    from checks import eventually

TIMEOUT_SECONDS = 20
TELL_SECONDS = 0.1
KEPT_FAILURES = 50


# ---- the caller's side -----------------------------------------------------------------------------------------------


class Load:
    """`fresh` of the clients connect anew for each request; `rate` is requests a second of all together, as fast as can be without."""

    def __init__(self, host, port, clients=8, fresh=2, rate=None, sources=(), path="/", inside=(), headers=()):
        command = [*inside, sys.executable, __file__, host, port, "--clients", clients, "--fresh", fresh, "--path", path]
        command += ["--rate", rate] if rate else []
        command += [f"--source={source}" for source in sources] + [f"--header={header}" for header in headers]
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.last = {"done": 0, "failed": 0, "failures": [], "by": {}}
        self.rows = []  # (seconds of the monotonic clock, done, failed)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.last = json.loads(line)
            self.rows.append((self.last["at"], self.last["done"], self.last["failed"]))

    @property
    def done(self):
        return self.last["done"]

    def more(self, requests, seconds=120):
        """Waits until so many more were answered."""
        target = self.done + requests
        eventually(lambda: self.done >= target or self.process.poll() is not None, seconds, f"{requests} more requests; {self.last}")
        assert self.process.poll() is None, f"the load ended by itself with {self.process.returncode}"
        return self

    def answered(self, member):
        return self.last["by"].get(member, 0)

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.reader.join()
        return self.last

    def end(self, failures=0):
        """Stops it; AssertionError where more failed than that."""
        last = self.close()
        assert last["failed"] <= failures, f"{last['failed']} of {last['done']} requests failed: {last['failures'][:8]}"
        return last

    def gap(self, since):
        """The longest time without one more good answer from then on."""
        good = [(at, done - failed) for at, done, failed in self.rows if at >= since]
        longest, began = 0.0, since
        for (_, before), (at, after) in zip(good, good[1:]):
            if after > before:
                longest, began = max(longest, at - began), at
        return max(longest, good[-1][0] - began) if good else float("inf")


# ---- the process -----------------------------------------------------------------------------------------------------


class Counts:
    def __init__(self):
        self.done = self.failed = self.bytes = 0
        self.by, self.statuses, self.failures, self.slowest, self.times = {}, {}, [], 0.0, [0] * 64

    def took(self, seconds):
        """In buckets of a twelfth of a decade, from 0.1 ms on."""
        self.slowest = max(self.slowest, seconds)
        place, bound = 0, 0.0001
        while seconds > bound and place < 63:
            place, bound = place + 1, bound * 1.2115
        self.times[place] += 1

    def fail(self, why):
        self.failed += 1
        if len(self.failures) < KEPT_FAILURES:
            self.failures.append([round(time.monotonic(), 3), why])

    def quantile(self, q):
        rest, bound = sum(self.times) * q, 0.0001
        for n in self.times:
            rest -= n
            if rest <= 0:
                return round(bound * 1000, 3)
            bound *= 1.2115
        return round(bound * 1000, 3)

    def tell(self):
        row = {"at": time.monotonic(), "done": self.done, "failed": self.failed, "by": self.by, "statuses": self.statuses}
        row |= {"failures": self.failures, "slowestMs": round(self.slowest * 1000, 1), "p50Ms": self.quantile(0.5), "p99Ms": self.quantile(0.99)}
        print(json.dumps(row), flush=True)


class Broken(Exception):
    pass


async def answer_of(reader):
    """Status, body, and whether the connection may be kept."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status = first.split(" ", 2)[:2]
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    kept = version == "HTTP/1.1" and fields.get("connection", "").lower() != "close"
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while True:
            size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
            body += (await reader.readexactly(size + 2))[:-2]
            if size == 0:
                return int(status), body, kept
    if "content-length" in fields:
        return int(status), await reader.readexactly(int(fields["content-length"])), kept
    raise Broken("an answer without a length")


class Pace:
    """Hands out moments, so many a second."""

    def __init__(self, rate):
        self.pause, self.next = 1 / rate if rate else 0, time.monotonic()

    async def turn(self):
        if self.pause:
            now = time.monotonic()
            # What could not be sent while nobody answered is not made up for.
            self.next = max(self.next, now - 0.2) + self.pause
            await asyncio.sleep(max(0.0, self.next - now))


async def client(options, number, counts, pace, stop):
    request = f"GET {options.path} HTTP/1.1\r\nHost: {options.host}\r\n".encode()
    request += b"".join(header.encode() + b"\r\n" for header in options.header)
    anew = number < options.fresh
    request += b"Connection: close\r\n\r\n" if anew else b"\r\n"
    source = (options.source[number % len(options.source)], 0) if options.source else None
    reader = writer = None
    while not stop.is_set():
        await pace.turn()
        began, kept = time.monotonic(), False
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                if writer is None:
                    reader, writer = await asyncio.open_connection(options.host, options.port, local_addr=source)
                writer.write(request)
                status, body, kept = await answer_of(reader)
            counts.statuses[status] = counts.statuses.get(status, 0) + 1
            if status == 200:
                who = body[:80].decode(errors="replace").strip()
                counts.by[who] = counts.by.get(who, 0) + 1
                counts.took(time.monotonic() - began)
            else:
                counts.fail(f"status {status}: {body[:100].decode(errors='replace')}")
        except asyncio.CancelledError:
            raise
        except (OSError, EOFError, ValueError, Broken, asyncio.LimitOverrunError) as e:
            counts.fail(f"{type(e).__name__}: {e} after {time.monotonic() - began:.3f} s")
            await asyncio.sleep(0.01)
        counts.done += 1
        if writer is not None and (anew or not kept):
            writer.close()
            reader = writer = None
    if writer is not None:
        writer.close()


async def run(options):
    counts, pace, stop = Counts(), Pace(options.rate), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    clients = [asyncio.create_task(client(options, i, counts, pace, stop)) for i in range(options.clients)]
    while not stop.is_set():
        counts.tell()
        try:
            await asyncio.wait_for(stop.wait(), TELL_SECONDS)
        except TimeoutError:
            continue
    await asyncio.gather(*clients)
    counts.tell()


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("host")
    options.add_argument("port", type=int)
    options.add_argument("--clients", type=int, default=8)
    options.add_argument("--fresh", type=int, default=0)
    options.add_argument("--rate", type=float)
    options.add_argument("--path", default="/")
    options.add_argument("--source", action="append", default=[])
    options.add_argument("--header", action="append", default=[])
    asyncio.run(run(options.parse_args()))


if __name__ == "__main__":
    main()
