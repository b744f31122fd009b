#!/usr/bin/env python3
"""`make bench`: Pillion, Envoy, HAProxy and nginx in turn, each on one core.

The method and how to read the result: docs/benchmarks.md.
"""

import argparse
import contextlib
import datetime
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time

import install
import plot
import report
from measure import Loads, busy, resident
from proxies import Backend, Cores, Failed, Sink, Target

ROOT = install.ROOT
# name -> (downstream, upstream) protocol, and whether it is part of the default run
SCENARIOS = {
    "h1": ("h1", "h1", True),
    "h2": ("h2", "h1", True),
    "h2h2": ("h2", "h2", True),
    "policy": ("h1", "h1", True),
    "fixed": ("h1", "h1", True),
    "memory": ("h1", "h1", True),
    "tcp": ("tcp", "tcp", True),
    "big": ("h1", "h1", False),
    "connect": ("h1", "h1", False),
}
IDLE_CONNECTIONS = 2000


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--pillion", type=pathlib.Path, metavar="PATH",
        help="default: target/release/pillion, built first")
    add("--pillion-old", type=pathlib.Path, metavar="PATH", action="append", default=[],
        help="another build to compare with; may be repeated")
    add("--only", default="", help=f"a list of {','.join(SCENARIOS)}")
    add("--targets", default="", help="a list of pillion,pillion inbound,full,none,haproxy,envoy,nginx,direct,relay")
    add("--seconds", type=int, help="of each run (4; 8 for the fixed rate)")
    add("--rounds", type=int, default=5, help="runs of each target (5; at most 3 for the fixed rate)")
    add("--quick", action="store_true", help="1 s, 1 round: does it work, not how fast is it")
    add("--out", type=pathlib.Path, default=ROOT / "target/bench")
    add("--gate", action="store_true", help="exit with 1 if a demand is not met")
    options = parser.parse_args()
    options.scenarios = options.only.split(",") if options.only else [
        name for name, (_, _, default) in SCENARIOS.items() if default]
    for name in options.scenarios:
        if name not in SCENARIOS:
            parser.error(f"no scenario `{name}`; there are {', '.join(SCENARIOS)}")
    if options.quick:
        options.seconds, options.rounds = options.seconds or 1, 1
    if options.rounds < 1 or (options.seconds is not None and options.seconds < 1):
        parser.error("--seconds and --rounds are at least 1")
    return options


def main():
    options = arguments()
    raise_file_limit()
    try:
        cores = Cores()
        pillion = options.pillion.resolve() if options.pillion else build()
        print("Getting the tools ready …", flush=True)
        tools = install.prepare()
    except (Failed, install.Missing) as error:
        sys.exit(f"bench: {error}")
    noise = noise_before()
    if noise > 10:
        print(f"\nWARNING: other programs use {noise:.0f} % of a core; figures will be poor.\n")
    targets = chosen(options, pillion)
    results, failures = [], []
    start = time.monotonic()
    for name in options.scenarios:
        measure(name, targets, tools, cores, options, results, failures)
    about = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(), "versions": versions(tools, pillion), "noise": noise,
        "seconds": options.seconds, "rounds": options.rounds, "took": time.monotonic() - start,
    }
    summary = report.summarise(results)
    gates = report.gates(summary)
    text = report.markdown(about, summary, gates, failures)
    report.write(options.out, about, results, summary, gates, text)
    (options.out / "bench.svg").write_text(plot.draw(summary))
    print(f"\n{text}\nWritten to {options.out}: bench.md, bench.csv, bench.json, bench.svg")
    missed = [gate for gate in gates if gate["verdict"] == "FAIL"]
    sys.exit(1 if failures or (options.gate and missed) else 0)


def chosen(options, pillion):
    everyone = [Target("pillion", "pillion", pillion),
                Target("pillion inbound", "pillion", pillion, inbound=True)]
    for number, path in enumerate(options.pillion_old, 1):
        everyone.append(Target(f"pillion old {number}", "pillion", path.resolve()))
    everyone += [Target(name, "pillion", pillion, template=f"policy/{name}.yaml")
                 for name in (report.FULL, report.NONE)]
    everyone += [Target(name, name) for name in ("haproxy", "envoy", "nginx", "direct", "relay")]
    if not options.targets:
        return everyone
    names = options.targets.split(",")
    for name in names:
        if name not in [one.name for one in everyone]:
            sys.exit(f"bench: no target `{name}`")
    return [one for one in everyone if one.name in names]


def takes_part(target, scenario):
    """nginx speaks no HTTP/2 to a backend; `direct` says what a proxy adds to latency, `relay` how
    fast bytes can be copied at all; a policy is measured beside none."""
    if scenario == "policy" or target.template:
        return scenario == "policy" and target.template is not None
    if scenario == "tcp" or target.kind == "relay":
        return scenario == "tcp" and not target.inbound and target.kind in ("pillion", "haproxy", "relay")
    if target.kind == "direct":
        return scenario == "fixed"
    if target.inbound:
        return scenario == "h1"
    return not (target.kind == "nginx" and scenario == "h2h2")


def measure(scenario, targets, tools, cores, options, results, failures):
    """Interleaved: each target once, then each once again."""
    front, back, _ = SCENARIOS[scenario]
    rounds = {"fixed": min(options.rounds, 3), "memory": 1}.get(scenario, options.rounds)
    broken = set()
    print(f"\n{report.TITLES[scenario]}", flush=True)
    with Sink(tools, cores) if back == "tcp" else Backend(tools, cores, back == "h2") as backend:
        for number in range(1, rounds + 1):
            for target in targets:
                if target.name in broken or not takes_part(target, scenario):
                    continue
                try:
                    with target.start(tools, cores, backend, front, back) as running:
                        found = one_run(scenario, running, Loads(tools, cores), options)
                except (Failed, OSError, subprocess.SubprocessError) as error:
                    broken.add(target.name)
                    failures.append({"scenario": scenario, "target": target.name, "why": str(error)})
                    print(f"  {target.name:16} FAILED: {error}", flush=True)
                    continue
                results.append({"scenario": scenario, "target": target.name, "round": number, **found})
                print(f"  {number}/{rounds} {target.name:16} {report.one_line(found)}", flush=True)


def one_run(scenario, running, loads, options, warm=True, around=contextlib.nullcontext):
    """One measurement; `around` is what a profiler wraps about the timed part."""
    seconds = options.seconds or (8 if scenario == "fixed" else 4)
    if scenario == "memory":
        return memory(running, loads, settle=1 if options.quick else 4)
    run = {
        "h1": lambda s: loads.wrk(running, s),
        "policy": lambda s: loads.wrk(running, s),
        "h2": lambda s: loads.h2load(running, s),
        "h2h2": lambda s: loads.h2load(running, s),
        "fixed": lambda s: loads.fixed(running, s),
        "big": lambda s: loads.wrk(running, s, connections=8, path="/big"),
        "connect": lambda s: loads.connect(running, s),
        "tcp": lambda s: loads.stream(running, s),
    }[scenario]
    if warm:
        run(1)
    with around():
        return run(seconds)


def memory(running, loads, settle):
    """Connections that never sent a byte come first: they leave no pool behind."""
    time.sleep(settle)
    idle = resident(running.program.pid) / 1024
    silent = loads.hold(running, IDLE_CONNECTIONS, 0, settle)
    used = loads.hold(running, IDLE_CONNECTIONS, 1, settle)
    return {"idle": idle, "silent": silent, "used": used}


def build():
    print("Building Pillion with --release (the first time takes minutes) …", flush=True)
    done = subprocess.run(["cargo", "build", "--release", "--bin", "pillion"], cwd=ROOT)
    if done.returncode != 0:
        raise Failed("`cargo build --release` failed")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release/pillion"


def raise_file_limit():
    """2,000 idle connections are 4,000 files in a proxy."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 20000 if hard == resource.RLIM_INFINITY else min(hard, 20000)
    if wanted < 12000:
        sys.exit(f"bench: at most {hard} open files are allowed; raise `ulimit -Hn` to 20000")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def noise_before():
    """How much of a core the others use, in percent."""
    before, start = busy(), time.monotonic()
    time.sleep(1)
    return (busy() - before) / (time.monotonic() - start) * 100


def machine():
    model = "unknown processor"
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def versions(tools, pillion):
    asks = {"pillion": [pillion, "--version"], "haproxy": [tools["haproxy"], "-v"],
            "envoy": [tools["envoy"], "--version"], "nginx": [tools["nginx"], "-v"],
            "h2load": [tools["h2load"], "--version"]}
    found = {}
    for name, command in asks.items():
        environment = tools.environment if name in ("nginx", "h2load") else None
        try:
            done = subprocess.run([str(word) for word in command], capture_output=True,
                                  text=True, timeout=10, env=environment)
            lines = (done.stdout + done.stderr).strip().splitlines()
            found[name] = lines[0].strip() if lines else "unknown"
        except (OSError, subprocess.SubprocessError):
            found[name] = "unknown"
    return found


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
