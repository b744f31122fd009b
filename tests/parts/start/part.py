"""What the starters beside this file share: a port, the processes, their end.

A starter runs in the foreground. It ends all that it began when it is told to
(SIGTERM, SIGINT), when its server ends, and, with --with-parent, when whoever
started it is gone. Its direct children end with it even if it is killed.
"""

import argparse
import ctypes
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

HOST = "127.0.0.1"
ROOT = pathlib.Path(__file__).resolve().parents[3]
CACHE = pathlib.Path(os.environ.get("PILLION_CACHE", ROOT / ".cache")).resolve()
# From the kernel's <linux/prctl.h>.
PR_SET_PDEATHSIG = 1
# Below the ports that the kernel gives to outgoing connections.
PORTS = range(20000, 32000)
# Seconds that a server may take to serve, and to end.
TO_SERVE, TO_END = 60, 15


class Stopped(Exception):
    """A signal asked for the end."""


def arguments(description):
    """A parser with what every starter takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=lambda path: pathlib.Path(path).resolve(), help="for its state; made if it is not there; kept")
    parser.add_argument("--port", type=int, help="of 127.0.0.1; a free one if it is not given")
    parser.add_argument("--with-parent", action="store_true", help="end when the process that started this one does")
    return parser


def parse(parser):
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    options.port = options.port or free_port()
    return options


def free_port():
    """A port that nothing has bound just now."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


def program(name, *folders, hint):
    """The path of a program, looked for in `folders` too."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    return found or fail(f"`{name}` is missing: {hint}")


def fail(message):
    sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {message}")


def once(command, folder, **options):
    """Runs a command to its end; its output is shown only if it fails."""
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if done.returncode != 0:
        fail(f"`{command[0]}` failed:\n{done.stdout}{done.stderr}")


def start(command, folder, **options):
    """Starts a process in a session of its own; it says into FOLDER/log."""
    libc = ctypes.CDLL(None, use_errno=True)

    def follow():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, preexec_fn=follow, **options,
        )


def accepts(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def serve(options, begin, end=signal.SIGTERM, ready=None):
    """Runs what `begin` starts until it is told to end.

    `begin` returns processes, the server last; `end` is the signal that ends
    the server well; `ready` says whether it serves (default: its port accepts).
    """
    def stop(*_):
        raise Stopped

    parent = os.getppid()

    def heed_parent():
        if options.with_parent and os.getppid() != parent:
            raise Stopped

    processes = []
    try:
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        processes = begin()
        server = processes[-1]
        check = ready or (lambda: accepts(options.port))
        deadline = time.monotonic() + TO_SERVE
        while not check():
            if server.poll() is not None or time.monotonic() > deadline:
                fail(f"the server does not serve:\n{last_words(options.folder)}")
            heed_parent()
            time.sleep(0.05)
        (options.folder / "pid").write_text(f"{server.pid}\n")
        print(f"ready {HOST}:{options.port}", flush=True)
        while server.poll() is None:
            heed_parent()
            time.sleep(0.1)
        fail(f"the server ended by itself ({server.returncode}):\n{last_words(options.folder)}")
    except Stopped:
        pass
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        for process in reversed(processes):
            finish(process, options.folder, end)
        (options.folder / "pid").unlink(missing_ok=True)


def finish(process, folder, end):
    """Ends one process; then, whatever is left of its session."""
    if process.poll() is None:
        process.send_signal(end)
        try:
            process.wait(TO_END)
        except subprocess.TimeoutExpired:
            print(f"{process.args[0]} had to be killed:\n{last_words(folder)}", file=sys.stderr)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def last_words(folder):
    log = folder / "log"
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else ""
