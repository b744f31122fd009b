"""Medians, ratios and demands, as Markdown, CSV and JSON."""

import csv
import json
import statistics

# Pillion with a whole policy, and with none.
FULL, NONE = "full", "none"
TITLES = {
    "h1": "HTTP/1.1, 64 keep-alive connections, 1 KiB",
    "h2": "h2c in, HTTP/1.1 out: 4 connections × 32 streams, 1 KiB",
    "h2h2": "h2c in, h2c out: 4 connections × 32 streams, 1 KiB",
    "policy": "Timeout, retries, breaker and rate limit beside none of them: HTTP/1.1",
    "fixed": "2,000 requests a second, 32 connections, open loop",
    "memory": "Resident memory, MiB",
    "big": "1 MiB bodies, 8 keep-alive connections",
    "connect": "A new connection for each request",
    "tcp": "Opaque TCP: 4 connections, 1 MiB writes, one direction",
}
# scenario, what, measured against (None: an absolute bound), at most
DEMANDS = [
    ("h1", "total", "haproxy", 1.25),
    ("h1", "user", "envoy", 0.20),
    ("h2h2", "user", "envoy", 0.40),
    ("h2", "total", "haproxy", 1.30),
    ("h2", "user", "envoy", 0.40),
    ("tcp", "cpu", "relay", 1.15),
    ("policy", "total", NONE, 1.15),
    ("memory", "idle", None, 14.0),
    ("memory", "used", None, 48.0),
    ("memory", "silent", None, 48.0),
]
WORDS = {"total": "CPU per request", "user": "user-space CPU per request", "idle": "idle",
         "cpu": "CPU per GiB", "used": "2,000 idle connections after a request",
         "silent": "2,000 connections that never sent a byte"}
# Above this share of a core used by others, a run is marked.
NOISY = 15.0


def summarise(results):
    """scenario -> target -> figure -> {median, min, max}, in the order of measuring."""
    grouped = {}
    for one in results:
        figures = grouped.setdefault(one["scenario"], {}).setdefault(one["target"], {})
        for key, value in one.items():
            if key not in ("scenario", "target", "round"):
                figures.setdefault(key, []).append(value)
    return {
        scenario: {
            target: {key: {"median": statistics.median(values), "min": min(values),
                           "max": max(values), "runs": len(values)}
                     for key, values in figures.items()}
            for target, figures in targets.items()}
        for scenario, targets in grouped.items()}


def ratio(targets, target, base, figure):
    """That target's median over the base's, or `None`."""
    try:
        below = targets[base][figure]["median"]
        return targets[target][figure]["median"] / below if below else None
    except KeyError:
        return None


def gates(summary):
    """Each demand with what was found: PASS, FAIL or NOT MEASURED."""
    found = []
    for scenario, figure, base, bound in DEMANDS:
        targets = summary.get(scenario, {})
        if base:
            value = ratio(targets, FULL if scenario == "policy" else "pillion", base, figure)
            said = f"{TITLES[scenario].split(',')[0] if scenario == 'h1' else TITLES[scenario].split(':')[0]}: " \
                   f"{WORDS[figure]} ≤ {bound:.2f} × {base}'s"
        else:
            value = targets.get("pillion", {}).get(figure, {}).get("median")
            said = f"memory: {WORDS[figure]} < {bound:.0f} MiB"
        verdict = "NOT MEASURED" if value is None else "PASS" if value <= bound else "FAIL"
        found.append({"demand": said, "value": value, "bound": bound, "verdict": verdict})
    return found


def one_line(found):
    if "idle" in found:
        return "idle {idle:.1f} MiB, silent {silent:.1f}, used {used:.1f}".format(**found)
    noise = f"   (others used {found['foreign']:.0f} % of a core)" if found["foreign"] > NOISY else ""
    if "gibs" in found:
        return "{gibs:6.2f} GiB/s, {cpu:.3f} CPU s/GiB".format(**found) + noise
    latency = "   p50 {p50} µs, p99 {p99}".format(**found) if "p50" in found else ""
    return "{total:7.2f} µs, {user:6.2f} in user space, {rps:8.0f}/s".format(**found) + latency + noise


def _spread(cell, digits):
    middle = f"{cell['median']:,.{digits}f}"
    if cell["runs"] == 1:
        return middle
    return f"{middle} ({cell['min']:,.{digits}f}–{cell['max']:,.{digits}f})"


def _over(targets, target, base, figure):
    value = ratio(targets, target, base, figure)
    return "" if value is None else f"{value:.2f}"


def _table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _section(scenario, targets):
    if scenario == "memory":
        header = ["", "idle", "2,000 silent", "KiB each", "2,000 idle after a request", "KiB each"]
        rows = []
        for name, cells in targets.items():
            idle, silent, used = (cells[key]["median"] for key in ("idle", "silent", "used"))
            rows.append([name, f"{idle:.1f}", f"{silent:.1f}", f"{(silent - idle) * 1024 / 2000:.1f}",
                         f"{used:.1f}", f"{(used - idle) * 1024 / 2000:.1f}"])
        return _table(header, rows)
    if scenario == "tcp":
        header = ["", "GiB/s", "÷ relay", "CPU s/GiB", "÷ relay", "RSS MiB"]
        rows = [[name, _spread(cells["gibs"], 2), _over(targets, name, "relay", "gibs"),
                 _spread(cells["cpu"], 3), _over(targets, name, "relay", "cpu"),
                 f"{cells['rss']['median']:.1f}"] for name, cells in targets.items()]
        return _table(header, rows)
    timed = scenario == "fixed"
    bases = [NONE] if scenario == "policy" else ["haproxy", "envoy"]
    header = ["", "CPU µs/request", "of it user space", "kernel share"]
    header += [f"{what}÷ {base}" for what in ("", "user ") for base in bases]
    header += ["p50 µs", "p99 µs", "p99.9 µs"] if timed else ["requests/s", "RSS MiB"]
    rows = []
    for name, cells in targets.items():
        total, user = cells["total"]["median"], cells["user"]["median"]
        row = [name, _spread(cells["total"], 2), _spread(cells["user"], 2),
               f"{(1 - user / total) * 100:.0f} %" if total else ""]
        row += [_over(targets, name, base, figure)
                for figure in ("total", "user") for base in bases]
        if timed:
            row += [_spread(cells[key], 0) for key in ("p50", "p99", "p999")]
        else:
            row += [_spread(cells["rps"], 0), f"{cells['rss']['median']:.1f}"]
        rows.append(row)
    return _table(header, rows)


def markdown(about, summary, found, failures):
    versions = "; ".join(f"{name}: {said}" for name, said in about["versions"].items())
    parts = [
        "# Benchmark",
        f"{about['date']} on {about['machine']}. Proxies on one core, load and backend on another. "
        f"Medians (min–max) of up to {about['rounds']} interleaved runs; took {about['took']:.0f} s. "
        f"Before the start others used {about['noise']:.0f} % of a core.",
        f"Versions: {versions}.",
        "Quote ratios, not microseconds; a difference under 8 % is a tie.",
    ]
    noisy = [f"{target} in `{scenario}` ({cells['foreign']['median']:.0f} %)"
             for scenario, targets in summary.items() for target, cells in targets.items()
             if cells.get("foreign", {"median": 0})["median"] > NOISY]
    if noisy:
        parts.append("**Not to be trusted**: other programs used the cores during the runs of "
                     + ", ".join(noisy) + ".")
    for scenario, targets in summary.items():
        parts += [f"## {TITLES[scenario]}", _section(scenario, targets)]
    if failures:
        rows = [[one["scenario"], one["target"], " ".join(one["why"].split())[:300].replace("|", "\\|")]
                for one in failures]
        parts += ["## What could not be measured", _table(["scenario", "target", "why"], rows)]
    rows = [[one["demand"], "" if one["value"] is None else f"{one['value']:.2f}", one["verdict"]]
            for one in found]
    parts += ["## Demands", _table(["demand", "found", ""], rows)]
    return "\n\n".join(parts) + "\n"


def write(folder, about, results, summary, found, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.md").write_text(text)
    whole = {"about": about, "summary": summary, "demands": found, "runs": results}
    (folder / "bench.json").write_text(json.dumps(whole, indent=1, default=str) + "\n")
    with open(folder / "bench.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["scenario", "target", "figure", "median", "min", "max", "runs"])
        for scenario, targets in summary.items():
            for target, cells in targets.items():
                for figure, cell in cells.items():
                    writer.writerow([scenario, target, figure, *(round(cell[key], 3) for key in
                                     ("median", "min", "max")), cell["runs"]])
