"""One measurement: load on a running target, and what the target spent."""

import json
import os
import re
import resource
import subprocess
import time

from proxies import HOST, Failed, descendants

TICK = os.sysconf("SC_CLK_TCK")
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


def cpu(pid):
    """(user, system) seconds of a process and its children, all their threads."""
    user = system = 0
    for one in descendants(pid):
        with open(f"/proc/{one}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        user, system = user + int(fields[11]), system + int(fields[12])
    return user / TICK, system / TICK


def resident(pid):
    """Resident KiB of a process and its children."""
    total = 0
    for one in descendants(pid):
        with open(f"/proc/{one}/statm") as statm:
            total += int(statm.read().split()[1]) * PAGE_KIB
    return total


def busy():
    """Seconds that all cores were busy or taken away by the host."""
    with open("/proc/stat") as stat:
        fields = [int(word) for word in stat.readline().split()[1:9]]
    user, nice, system, _idle, _wait, irq, soft, steal = fields
    return (user + nice + system + irq + soft + steal) / TICK


class Spent:
    """What the target spends while the `with` block runs."""

    def __init__(self, running):
        self.running = running

    def __enter__(self):
        self.ours = self._ours()
        self.busy, self.start, self.before = busy(), time.monotonic(), cpu(self.running.program.pid)
        return self

    def __exit__(self, *_):
        after = cpu(self.running.program.pid)
        self.user, self.system = (b - a for a, b in zip(self.before, after))
        took = time.monotonic() - self.start
        # What neither proxy, backend nor load used: the noise of the machine.
        self.foreign = max(0.0, busy() - self.busy - (self._ours() - self.ours)) / took

    def _ours(self):
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        pids = {self.running.program.pid, self.running.backend.program.pid}
        return sum(sum(cpu(pid)) for pid in pids) + children.ru_utime + children.ru_stime

    def result(self, requests, seconds):
        if requests == 0:
            raise Failed(f"{self.running.target.name}: no request was completed")
        return {
            "requests": requests,
            "rps": requests / seconds,
            "user": self.user / requests * 1e6,
            "total": (self.user + self.system) / requests * 1e6,
            "foreign": self.foreign * 100,
            "rss": resident(self.running.program.pid) / 1024,
        }


class Loads:
    """The load generators, on the load's core."""

    def __init__(self, tools, cores):
        self.tools, self.cores = tools, cores

    def _run(self, command, patience):
        pin = lambda: os.sched_setaffinity(0, {self.cores.load})
        try:
            done = subprocess.run(
                [str(word) for word in command], capture_output=True, text=True, timeout=patience,
                env=self.tools.environment, preexec_fn=pin)
        except subprocess.TimeoutExpired:
            raise Failed(f"the load did not end after {patience} s: {command}") from None
        if done.returncode != 0:
            raise Failed(f"{os.path.basename(str(command[0]))}: {done.stdout}{done.stderr}")
        return done.stdout

    def wrk(self, running, seconds, connections=64, path="/"):
        """Closed loop over keep-alive connections."""
        url = f"http://127.0.0.1:{running.port}{path}"
        command = [self.tools["wrk"], "-t1", f"-c{connections}", f"-d{seconds}s",
                   "-H", f"Host: {HOST}", url]
        with Spent(running) as spent:
            said = self._run(command, seconds + 30)
        count = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m),", said)
        if not count or "Non-2xx" in said or "Socket errors" in said:
            raise Failed(f"{running.target.name}: wrk says:\n{said}")
        return spent.result(int(count[1]), seconds)

    def h2load(self, running, seconds):
        """Closed loop: 4 HTTP/2 connections with 32 streams each."""
        command = [self.tools["h2load"], "-t1", "-c4", "-m32", "-D", seconds,
                   f"--connect-to=127.0.0.1:{running.port}", f"http://{HOST}/"]
        with Spent(running) as spent:
            said = self._run(command, seconds + 30)
        count = re.search(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed, "
                          r"(\d+) errored, (\d+) timeout", said)
        good = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", said)
        if not count or not good or any(int(count[i]) for i in (3, 4, 5)):
            raise Failed(f"{running.target.name}: h2load says:\n{said}")
        return spent.result(int(count[1]), seconds)

    def fixed(self, running, seconds, rate=2000, connections=32):
        """Open loop: latencies count from when a request was due."""
        command = [self.tools["load"], "fixed", running.port, HOST, rate, connections, seconds]
        with Spent(running) as spent:
            said = json.loads(self._run(command, seconds + 30))
        latencies = {key: said[key] for key in ("p50", "p99", "p999", "max")}
        return spent.result(said["requests"], said["seconds"]) | latencies

    def connect(self, running, seconds):
        """A new connection for each request."""
        command = [self.tools["load"], "connect", running.port, HOST, seconds]
        with Spent(running) as spent:
            said = json.loads(self._run(command, seconds + 30))
        return spent.result(said["requests"], said["seconds"])

    def stream(self, running, seconds, connections=4):
        """1 MiB writes on a few connections."""
        command = [self.tools["stream"], "send", running.port, seconds, connections]
        with Spent(running) as spent:
            said = json.loads(self._run(command, seconds + 30))
        gib = said["bytes"] / 2**30
        return {"gibs": gib / said["seconds"], "cpu": (spent.user + spent.system) / gib,
                "foreign": spent.foreign * 100, "rss": resident(running.program.pid) / 1024}

    def hold(self, running, connections, requests, settle):
        """Resident MiB while that many connections are open and idle."""
        command = [self.tools["load"], "hold", running.port, HOST, connections, requests]
        holder = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {self.cores.load}))
        try:
            if holder.stdout.readline() != "held\n":
                raise Failed(f"{running.target.name}: {holder.stderr.read()}")
            time.sleep(settle)
            size = resident(running.program.pid) / 1024
            said, _ = holder.communicate(timeout=30)
            alive = json.loads(said)
        finally:
            if holder.poll() is None:
                holder.kill()
                holder.wait()
        if alive["open"] != connections:
            raise Failed(f"{running.target.name}: only {alive['open']} of {connections} "
                         "connections were still open when memory was read")
        return size
