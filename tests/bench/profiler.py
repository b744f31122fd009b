"""The part of profile.sh that holds a load on one proxy and watches it."""

import argparse
import pathlib
import signal
import subprocess
import sys

import install
import run
from measure import Loads
from proxies import Backend, Cores, Failed, Target, descendants

OUT = install.ROOT / "target/bench"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pillion", type=pathlib.Path)
    parser.add_argument("--target", default="pillion", help="or a peer: haproxy, envoy, nginx")
    parser.add_argument("--scenario", default="h1", choices=["h1", "h2", "h2h2", "big", "connect"])
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--tool", default="perf", choices=["perf", "callgrind"])
    options = parser.parse_args()
    run.raise_file_limit()
    OUT.mkdir(parents=True, exist_ok=True)
    try:
        tools, cores = install.prepare(), Cores()
        profile(options, tools, cores)
    except (Failed, install.Missing) as error:
        sys.exit(f"profile: {error}")


def profile(options, tools, cores):
    front, back, _ = run.SCENARIOS[options.scenario]
    own = options.pillion.resolve() if options.pillion else None
    target = Target(options.target, options.target, own)
    if options.tool == "callgrind":
        data = OUT / f"callgrind-{options.scenario}.out"
        data.unlink(missing_ok=True)
        target.prefix = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={data}"]
    with Backend(tools, cores, back == "h2") as backend:
        with target.start(tools, cores, backend, front, back) as running:
            loads = Loads(tools, cores)
            run.one_run(options.scenario, running, loads, options, warm=options.tool == "perf",
                        around=lambda: Perf(options, running))
    # callgrind writes when the program has ended.
    if options.tool == "callgrind":
        show(["callgrind_annotate", "--threshold=95", data], options)


class Perf:
    """perf on the proxy while the load runs; nothing with callgrind."""

    def __init__(self, options, running):
        self.options, self.running = options, running
        self.data = OUT / f"perf-{options.scenario}.data"

    def __enter__(self):
        if self.options.tool == "perf":
            pids = ",".join(map(str, descendants(self.running.program.pid)))
            self.recorder = subprocess.Popen(
                ["perf", "record", "-q", "-F", "1999", "-e", "cpu-clock:u", "--call-graph", "fp",
                 "-p", pids, "-o", self.data])

    def __exit__(self, *_):
        if self.options.tool == "perf":
            self.recorder.send_signal(signal.SIGINT)
            self.recorder.wait(30)
            show(["perf", "report", "-i", self.data, "--stdio", "--no-children", "-g", "none",
                  "--percent-limit", "0.4"], self.options)


def show(command, options):
    """The whole into a file, the top to the terminal."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(done.stderr)
    file = OUT / f"profile-{options.target}-{options.scenario}-{options.tool}.txt"
    file.write_text(done.stdout)
    lines = [line[:160] for line in done.stdout.splitlines() if line.strip() and line[0] != "#"]
    print("\n".join(lines[:45]), f"\nThe whole: {file}", sep="\n")


if __name__ == "__main__":
    main()
