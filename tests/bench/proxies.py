"""Starts and ends what is measured, and the backend behind it."""

import ctypes
import http.client
import os
import pathlib
import signal
import socket
import string
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TEMPLATES = HERE / "templates"
HOST = "backend"
# The program of a kind, where it has another name.
PROGRAMS = {"relay": "stream"}


class Failed(Exception):
    """Something could not be measured; says why."""


class Cores:
    """One core for what is measured, another for all the rest."""

    def __init__(self):
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            raise Failed("the benchmark needs two cores: one for the proxy, one for the load")
        self.load, self.proxy = allowed[:2]


class Program:
    """A process that runs on one core and ends with this one."""

    def __init__(self, command, core, environment, folder):
        self.log = pathlib.Path(folder) / "output.log"
        with open(self.log, "w") as output:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, env=environment, cwd=folder,
                preexec_fn=lambda: _settle(core))

    @property
    def pid(self):
        return self.process.pid

    def ended(self):
        """How it ended and what it said, or `None` while it runs."""
        code = self.process.poll()
        return None if code is None else f"ended with {code}: {self.log.read_text()[-600:].strip()}"

    def stop(self):
        """Asks, then insists; always by id."""
        family = descendants(self.pid)
        for number, patience in ((signal.SIGTERM, 3), (signal.SIGTERM, 2), (signal.SIGKILL, 5)):
            if self.process.poll() is None:
                self.process.send_signal(number)
                try:
                    self.process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue
            break
        for pid in family:
            if pid != self.pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass


def _settle(core):
    os.sched_setaffinity(0, {core})
    die_with_parent = 1
    ctypes.CDLL(None).prctl(die_with_parent, signal.SIGKILL)


def descendants(pid):
    """That process and its children, for nginx serves in a child."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stat:
                    parents[int(entry)] = int(stat.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def free_ports(count):
    """Ports that nobody listens on; all are held until all are known."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


class Backend:
    """The service: our own for HTTP/1.1, nghttpd for HTTP/2."""

    def __init__(self, tools, cores, http2=False):
        self.folder = tempfile.TemporaryDirectory(prefix="pillion-bench-")
        (self.port,) = free_ports(1)
        if http2:
            pathlib.Path(self.folder.name, "index.html").write_text("x" * 1024)
            command = [tools["nghttpd"], "--no-tls", "-n1", "-d", self.folder.name,
                       "-a", "127.0.0.1", self.port]
        else:
            command = [tools["backend"], self.port]
        self.program = Program(command, cores.load, tools.environment, self.folder.name)
        wait_until(lambda: _listens(self.port), self.program, "the backend")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.program.stop()
        self.folder.cleanup()


class Sink(Backend):
    """Takes bytes and discards them."""

    def __init__(self, tools, cores):
        self.folder = tempfile.TemporaryDirectory(prefix="pillion-bench-")
        (self.port,) = free_ports(1)
        self.program = Program([tools["stream"], "sink", self.port], cores.load, tools.environment,
                               self.folder.name)
        wait_until(lambda: _listens(self.port), self.program, "the sink")


class Target:
    """A proxy to measure, or the backend itself (`direct`).

    `name` is what the tables say, `kind` chooses program and template, unless that is told.
    """

    def __init__(self, name, kind, program=None, inbound=False, template=None):
        self.name, self.kind, self.path, self.inbound = name, kind, program, inbound
        self.template = template
        self.prefix = []  # what runs it, for a profiler

    def start(self, tools, cores, backend, front, back):
        return Running(self, tools, cores, backend, front, back)


class Running:
    """A started target; `port` takes requests. `front` and `back` are "h1", "h2" or "tcp"."""

    def __init__(self, target, tools, cores, backend, front, back):
        self.target, self.backend = target, backend
        self.folder = tempfile.TemporaryDirectory(prefix="pillion-bench-")
        try:
            if target.kind == "direct":
                self.port, self.program = backend.port, backend.program
            else:
                self._start(tools, cores, front, back)
            wait_until(lambda: _answers(tools, self.port, front), self.program, target.name)
        except BaseException:
            self.__exit__()
            raise

    def _start(self, tools, cores, front, back):
        self.port, inbound, admin, probes, outbound = free_ports(5)
        http2 = back == "h2"
        values = {
            "port": self.port, "inbound": inbound, "outbound": outbound, "admin": admin, "probes": probes,
            "backend": self.backend.port, "folder": self.folder.name,
            "haproxy_proto": "proto h2" if http2 else "",
            "envoy_proto": "http2_protocol_options" if http2 else "http_protocol_options",
            "pillion_proto": "http2" if http2 else "http1",
            "nginx_proto": "http2" if front == "h2" else "",
        }
        file = pathlib.Path(self.folder.name) / "configuration"
        if self.target.kind != "relay":
            wanted = self.target.template or f"{'tcp/' if front == 'tcp' else ''}{self.target.kind}.*"
            (template,) = TEMPLATES.glob(wanted)
            file = file.with_name(template.name)
            file.write_text(string.Template(template.read_text()).substitute(values))
        program = self.target.path or tools[PROGRAMS.get(self.target.kind, self.target.kind)]
        command = {
            "relay": [program, "relay", self.port, self.backend.port],
            "pillion": [program, "run", "-c", file],
            "haproxy": [program, "-db", "-f", file],
            "nginx": [program, "-p", self.folder.name, "-e", "stderr", "-c", file],
            "envoy": [program, "-c", file, "--concurrency", "1", "-l", "off",
                      "--disable-hot-restart"],
        }[self.target.kind]
        # Only Debian's programs, unpacked in the cache, need its libraries.
        environment = tools.environment if self.target.kind == "nginx" else dict(os.environ)
        self.program = Program(self.target.prefix + command, cores.proxy, environment, self.folder.name)
        if self.target.inbound:
            self.port = inbound

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.target.kind != "direct" and hasattr(self, "program"):
            self.program.stop()
        self.folder.cleanup()


def wait_until(holds, program, name, patience=15):
    """Until it holds; a program that ends or takes too long is a failure."""
    deadline = time.monotonic() + patience
    while not holds():
        end = program.ended()
        if end:
            raise Failed(f"{name} {end}")
        if time.monotonic() > deadline:
            said = program.log.read_text()[-600:].strip()
            raise Failed(f"{name} does not answer after {patience} s: {said}")
        time.sleep(0.05)


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(tools, port, front):
    if front == "tcp":
        return _listens(port)
    if front == "h2":
        return _listens(port) and _answers_http2(tools, port)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/", headers={"Host": HOST})
        answer = connection.getresponse()
        return answer.status == 200 and len(answer.read()) == 1024
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _answers_http2(tools, port):
    ask = [tools["h2load"], "-n1", f"--connect-to=127.0.0.1:{port}", f"http://{HOST}/"]
    try:
        done = subprocess.run(ask, env=tools.environment, capture_output=True, text=True, timeout=5)
    except subprocess.TimeoutExpired:
        return False
    return "1 succeeded" in done.stdout and "1 2xx" in done.stdout
