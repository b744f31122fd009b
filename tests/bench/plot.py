"""The figures as an SVG drawing, written by hand: no library to install."""

from html import escape

from report import TITLES

WIDTH, LEFT, RIGHT = 860, 150, 210
ROW, GAP, TITLE, MARGIN = 24, 22, 30, 16
BARS = WIDTH - LEFT - RIGHT
# panel: scenario -> the parts of a bar, and their legend
USER, KERNEL = ("user space", "#2b6cb0"), ("kernel", "#b7cbe0")
P50, P99 = ("p50", "#2f855a"), ("p99", "#b5d8c5")
IDLE, USED = ("idle", "#975a16"), ("with 2,000 idle connections", "#e2c9a3")


def draw(summary):
    """One panel for each scenario, one bar for each target."""
    body, y = [], MARGIN
    for scenario, targets in summary.items():
        for title, legend, unit, rows in _panels(scenario, targets):
            y = _panel(body, y, title, legend, unit, rows)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
        f'viewBox="0 0 {WIDTH} {y}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" '
        'font-size="13">',
        f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>', *body, "</svg>", ""])


def _panels(scenario, targets):
    def middle(cells, key):
        return cells[key]["median"]

    if scenario == "memory":
        rows = [(name, middle(cells, "idle"), middle(cells, "used"), None)
                for name, cells in targets.items()]
        yield TITLES[scenario], (IDLE, USED), "MiB", rows
        return
    if scenario == "tcp":
        rows = [(name, 0, middle(cells, "cpu"), (cells["cpu"]["min"], cells["cpu"]["max"]))
                for name, cells in targets.items()]
        yield f"{TITLES[scenario]}: CPU a GiB", (USER, KERNEL), "s", rows
        return
    rows = [(name, middle(cells, "user"), middle(cells, "total"),
             (cells["total"]["min"], cells["total"]["max"])) for name, cells in targets.items()]
    yield f"{TITLES[scenario]}: CPU a request", (USER, KERNEL), "µs", rows
    if scenario == "fixed":
        rows = [(name, middle(cells, "p50"), middle(cells, "p99"),
                 (cells["p99"]["min"], cells["p99"]["max"])) for name, cells in targets.items()]
        yield f"{TITLES[scenario]}: latency", (P50, P99), "µs", rows


def _panel(body, y, title, legend, unit, rows):
    body.append(f'<text x="{MARGIN}" y="{y + 14}" font-weight="bold">{escape(title)}</text>')
    y += TITLE
    x = LEFT
    for name, colour in legend:
        body.append(f'<rect x="{x}" y="{y - 8}" width="11" height="11" fill="{colour}"/>')
        body.append(f'<text x="{x + 16}" y="{y + 2}" font-size="11" fill="#555">{escape(name)}</text>')
        x += 36 + 7 * len(name)
    y += 10
    # The scale is that of the longest bar; a whisker beyond it is cut.
    scale = BARS / max((row[2] for row in rows), default=1) if rows else 1
    for row in rows:
        _bar(body, y, row, legend, unit, scale)
        y += ROW
    return y + GAP


def _bar(body, y, row, legend, unit, scale):
    name, first, whole, spread = row
    weight = ' font-weight="bold"' if name.startswith("pillion") else ""
    body.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end"{weight}>{escape(name)}</text>')
    cut = min(first, whole) * scale
    body.append(f'<rect x="{LEFT}" y="{y + 2}" width="{cut:.1f}" height="16" fill="{legend[0][1]}"/>')
    body.append(f'<rect x="{LEFT + cut:.1f}" y="{y + 2}" width="{whole * scale - cut:.1f}" '
                f'height="16" fill="{legend[1][1]}"/>')
    end = LEFT + whole * scale
    if spread and spread[0] != spread[1]:
        low, high = (LEFT + min(value * scale, BARS + 20) for value in spread)
        body.append(f'<path d="M{low:.1f} {y + 10}H{high:.1f}M{low:.1f} {y + 6}v8M{high:.1f} {y + 6}v8" '
                    'stroke="#222" stroke-width="1" fill="none"/>')
        end = max(end, high)
    digits = 0 if whole >= 100 else 1
    body.append(f'<text x="{end + 8:.1f}" y="{y + 14}" font-size="12">{whole:,.{digits}f} {unit}'
                f'<tspan fill="#777" font-size="11">  ({first:,.{digits}f} {escape(legend[0][0])})'
                '</tspan></text>')
