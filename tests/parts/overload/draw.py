"""Useful answers a second of each route, one panel a run, as SVG."""

from html import escape

WIDTH, LEFT, RIGHT, HEIGHT, TOP = 860, 60, 150, 190, 44
COLOURS = {"own": "#2f855a", "price": "#2b6cb0", "stock": "#c05621"}
TITLES = {"naive": "three tries in each service's code", "pillion": "sidecars, with the defaults of each policy"}
LABELS = {"own": "needs no other", "price": "needs the middle tier", "stock": "needs the last tier"}


def plot(runs, rates, since, until):
    """`runs` holds calls as (second, route, useful, took)."""
    height = len(runs) * (HEIGHT + TOP + 30) + 10
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
             f'viewBox="0 0 {WIDTH} {height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" '
             'font-size="12">', f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>']
    for number, (name, calls) in enumerate(runs.items()):
        parts += panel(number * (HEIGHT + TOP + 30) + TOP, TITLES[name], calls, rates, since, until)
    return "\n".join([*parts, "</svg>", ""])


def panel(top, title, calls, rates, since, until):
    seconds = int(max(at for at, *_ in calls))
    wide, high = (WIDTH - LEFT - RIGHT) / seconds, HEIGHT / (max(rates.values()) * 1.1)
    base = top + HEIGHT
    yield f'<text x="{LEFT}" y="{top - 14}" font-weight="bold">{escape(title)}</text>'
    yield (f'<rect x="{LEFT + since * wide:.1f}" y="{top}" width="{(until - since) * wide:.1f}" '
           f'height="{HEIGHT}" fill="#f6e3e0"/>')
    yield (f'<text x="{LEFT + since * wide + 4:.1f}" y="{top + 14}" fill="#9b2c2c">'
           'the last tier has a fifth of its capacity</text>')
    for value in range(0, max(rates.values()) + 1, 50):
        y = base - value * high
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e2e2e2"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{value}</text>'
    for second in range(0, seconds + 1, 10):
        yield f'<text x="{LEFT + second * wide:.1f}" y="{base + 16}" text-anchor="middle" fill="#555">{second} s</text>'
    for row, route in enumerate(rates):
        counts = [0] * seconds
        for at, name, good, _ in calls:
            if name == route and good and at < seconds:
                counts[int(at)] += 1
        line = "L".join(f"{LEFT + (second + 0.5) * wide:.1f} {base - count * high:.1f}"
                        for second, count in enumerate(counts))
        yield f'<path d="M{line}" fill="none" stroke="{COLOURS[route]}" stroke-width="2"/>'
        y = top + 20 + row * 34
        yield f'<text x="{WIDTH - RIGHT + 12}" y="{y}" fill="{COLOURS[route]}" font-weight="bold">/{route}</text>'
        yield f'<text x="{WIDTH - RIGHT + 12}" y="{y + 14}" font-size="11" fill="#555">{escape(LABELS[route])}</text>'
