"""benchmark.svg: milliseconds a token against tokens in context. Prints nothing."""
import math
from html import escape

from colours import CSS

SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 300" width="720" role="img">
<title>Milliseconds a token against tokens in context: one file climbs, the other stays flat</title>
<style>
{css}
text {{ font: 14px "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--soft) }}
.grid {{ stroke: var(--soft); stroke-opacity: 0.3 }}
.bold {{ font-weight: bold }} .end {{ text-anchor: end }} .middle {{ text-anchor: middle }}
text.slow {{ fill: var(--slow) }} text.fast {{ fill: var(--fast) }}
polyline {{ fill: none; stroke-width: 3 }}
polyline.slow {{ fill: none; stroke: var(--slow) }}
polyline.fast {{ fill: none; stroke: var(--fast) }}
</style>
<rect class="page" width="480" height="300" rx="6"/>
<text x="60" y="24" class="bold">milliseconds a token</text>
{body}
<text x="265" y="276" class="middle">tokens in context</text>
<text x="460" y="294" class="end" style="font-size: 12px">{machine}</text>
</svg>
"""
TICKS = 0, 256, 512, 768, 1024


def at_x(n_tokens):
    return round(60 + 400 * n_tokens / TICKS[-1], 1)


def at_y(ms, top):
    return round(238 - 200 * ms / top, 1)


def grid(top):
    """The SVG of two to six lines across, at round numbers of milliseconds."""
    unit = 10 ** math.floor(math.log10(top))
    if top < 3 * unit:
        unit /= 2

    body = []
    for i in range(int(top / unit) + 1):
        y = at_y(i * unit, top)
        body.append(f'<path class="grid" d="M60 {y}H460"/>')
        body.append(f'<text x="54" y="{y + 5}" class="end">{i * unit:,.0f}</text>')
    return body


def draw(lines, machine):
    """The SVG. lines: {file: [(tokens in context, milliseconds)]}, the slower file first."""
    top = 1.1 * max(ms for line in lines.values() for _, ms in line)
    body = [f'<text x="{at_x(n)}" y="256" class="middle">{n:,}</text>' for n in TICKS]
    body += grid(top)
    for (file, line), css in zip(lines.items(), ("slow", "fast")):
        points = " ".join(f"{at_x(n)},{at_y(ms, top)}" for n, ms in line)
        body.append(f'<polyline class="{css}" points="{points}"/>')
        n, ms = line[-1]
        body.append(f'<text x="{at_x(n) - 8}" y="{at_y(ms, top) - 9}" class="bold end {css}">'
                    f"{file}: {ms:,.0f} ms</text>")
    return SVG.format(css=CSS, body="\n".join(body), machine=escape(machine, False))
