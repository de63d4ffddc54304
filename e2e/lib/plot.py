"""Time series as an SVG, readable on light and dark ground: panels one above another over one time axis.

    draw("out.svg", "what it shows", [Panel("requests/s", [Line("sent", [(0, 10), (5, 20)], "a")])])

Lines of the same panel share its scale. `step` holds a value until the next one, as counts do.
"""

from dataclasses import dataclass, field

WIDTH, LEFT, RIGHT, TOP, HIGH, GAP = 860, 62, 16, 46, 170, 48
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .title { font-size: 14px; font-weight: 600 }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  path { fill: none; stroke-width: 2; stroke-linejoin: round }
  .a { stroke: #0969da; fill: #0969da } .b { stroke: #bc4c00; fill: #bc4c00 } .c { stroke: #1a7f37; fill: #1a7f37 }
  path.a, path.b, path.c { fill: none }
  text.a, text.b, text.c { stroke: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .grid { stroke: #30363d }
    .a { stroke: #58a6ff; fill: #58a6ff } .b { stroke: #f0883e; fill: #f0883e } .c { stroke: #3fb950; fill: #3fb950 }
  }
"""


@dataclass
class Line:
    name: str
    points: list  # (seconds, value)
    style: str  # a, b or c
    step: bool = False


@dataclass
class Panel:
    name: str
    lines: list = field(default_factory=list)


def steps(most, count):
    """Round numbers from 0 to at least `most`, about so many."""
    size = 1
    while True:
        for factor in (1, 2, 5):
            if most / (size * factor) <= count:
                return [size * factor * i for i in range(int(most / (size * factor) - 1e-9) + 2)]
        size *= 10


def draw(path, title, panels):
    end = max(at for panel in panels for line in panel.lines for at, _ in line.points)
    across = WIDTH - LEFT - RIGHT
    height = TOP + len(panels) * (HIGH + GAP) + 18
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">']
    out += [f"<style>{STYLE}</style>", f'<text class="title" x="{LEFT}" y="20">{title}</text>']
    for n, panel in enumerate(panels):
        base = TOP + n * (HIGH + GAP) + HIGH
        marks = steps(max(value for line in panel.lines for _, value in line.points), 5)

        def y(value, base=base, top=marks[-1]):
            return round(base - value / top * (HIGH - 8), 1)

        for mark in marks:
            out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(mark)}" y2="{y(mark)}"/>')
            out.append(f'<text x="{LEFT - 8}" y="{y(mark) + 4}" text-anchor="end">{mark}</text>')
        for at in steps(end, 10):
            x = round(LEFT + at / end * across, 1)
            if at <= end:
                out.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{base}" y2="{base + 4}"/>')
                out.append(f'<text x="{x}" y="{base + 17}" text-anchor="middle">{at} s</text>')
        out.append(f'<text x="{LEFT}" y="{base - HIGH - 4}">{panel.name}</text>')
        names = WIDTH - RIGHT
        for line in reversed(panel.lines):
            out.append(f'<text class="{line.style}" x="{names}" y="{base - HIGH - 4}" text-anchor="end">{line.name}</text>')
            names -= 8 * len(line.name) + 16
        for line in panel.lines:
            out.append(f'<path class="{line.style}" d="{trace(line, end, across, y)}"/>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*out, "</svg>", ""]))


def trace(line, end, across, y):
    parts, before = [], None
    for at, value in line.points:
        x = round(LEFT + at / end * across, 1)
        if line.step:
            if value == before and at != line.points[-1][0]:
                continue
            parts.append(f"H{x}V{y(value)}" if parts else f"M{x} {y(value)}")
        else:
            parts.append(f"{'L' if parts else 'M'}{x} {y(value)}")
        before = value
    return "".join(parts)
