"""Draw race.svg: both files write the same text, in real time. Takes half a minute.

    python tests/lesson/draw_race.py

This overwrites race.svg beside it. Both files continue PROMPT with models/1M, in turn, RUNS times
each. A token appears when it was chosen, in the median of the runs. After PAUSE seconds the race
begins again. Where reduced motion is asked for, the picture shows the end.
"""
import datetime
import math
import os
import sys
import textwrap
from html import escape
from pathlib import Path

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/benchmark")]
N_THREADS = os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # 1M is too small to gain from more

import numpy as np
from colours import CSS
from machine import cpu
from measuring import FILES, run_program, timed_generate

from utils import load_encoder_hparams_and_params

PROMPT, N_TOKENS, RUNS = "The giant was so", 400, 5
PAUSE = 6  # seconds between the end and the next beginning
FRAME = 0.016  # seconds: a screen does not show more frames than that
COLUMNS, ROWS = 54, 5  # characters in a line, and lines that a pane shows
WIDTH, LEFT, CHARACTER, LINE = 480, 18, 8.2, 19  # in units of the drawing
PANE = 34 + ROWS * LINE
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 {height}" width="640" role="img">
<title>{title}</title>
<desc>{desc}</desc>
<style>
{css}
text {{ font: 13.5px ui-monospace, Menlo, Consolas, monospace; fill: var(--text) }}
.say {{ font: 13px "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--soft) }}
.head {{ font: bold 15px "Segoe UI", Helvetica, Arial, sans-serif }}
.end {{ text-anchor: end }} .cover {{ fill: var(--pane) }}
.pane {{ fill: var(--pane); stroke: var(--line) }}
@media (prefers-reduced-motion: no-preference) {{
  .moves {{ animation: {cycle:.2f}s step-end infinite }} }}
{rules}
</style>
<rect class="page" width="480" height="{height}" rx="6"/>
{body}
</svg>
"""


def race(ids, params, n_head):
    """The ids that continue ids, and {file: the second in which each was chosen}."""
    runs = {file: [] for file in FILES}
    for _ in range(RUNS + 1):  # the first of each warms up
        for file, module in FILES.items():
            runs[file].append(timed_generate(module, ids, params, n_head, N_TOKENS))

    new = runs["gpt2.py"][0].ids
    if any(run.ids != new for several in runs.values() for run in several):
        raise ValueError("the two files do not continue the prompt with the same ids every time")

    ends = {}
    for file, several in runs.items():
        ends[file] = np.median([np.cumsum(run.seconds) for run in several[1:]], axis=0)
    return new, ends


def wrap(text):
    """(line, index of its first character in text) of each line. Empty lines are left out."""
    lines, at = [], 0
    for paragraph in text.split("\n"):
        for line in textwrap.wrap(paragraph, COLUMNS):
            at = text.index(line, at)
            lines.append((line, at))
            at += len(line)
    return lines


class Movement:
    """Of an element that takes new places along an axis, in time: its CSS."""

    def __init__(self, name, axis, cycle):
        self.name, self.axis, self.cycle = name, axis, cycle
        self.places = {}  # {number of the frame: place}; the last one said for a frame holds

    def to(self, second, place):
        """Be there from that second on."""
        self.places[math.ceil(second / FRAME)] = place

    def css(self, place):
        return f"transform:translate{self.axis}({place:.1f}px)"

    def last(self):
        return self.css(self.places[max(self.places)])

    def attributes(self):
        """The element's: where nothing moves, it is at the last place."""
        return f'class="moves" style="{self.last()};animation-name:{self.name}"'

    def rule(self):
        """The element's keyframes."""
        frames = []
        for frame, place in self.places.items():
            frames.append(f"{100 * frame * FRAME / self.cycle:.2f}%{{{self.css(place)}}}")
        return f"@keyframes {self.name}{{{''.join(frames)}to{{{self.last()}}}}}"


def draw_lines(css, pieces, ends, cycle):
    """The text of a pane, as SVG, and the movements in it: a cover a line, and lines scrolling up.

    A cover hides what of its line is not chosen yet.
    """
    seconds = [0, *ends]  # the prompt is there at once
    n_there = np.cumsum([len(piece) for piece in pieces])  # characters, at each of these seconds

    scroll = Movement(f"{css}-scroll", "Y", cycle)
    body, moves = [], [scroll]
    for row, (line, at) in enumerate(wrap("".join(pieces))):
        cover = Movement(f"{css}{row}", "X", cycle)
        cover.to(0, 0)
        for n, second in zip(n_there - at, seconds):
            if n > 0:
                cover.to(second, CHARACTER * min(n, len(line)))
            if n >= len(line):
                break
        first = np.searchsorted(n_there, at, side="right")  # the piece with which the line begins
        scroll.to(seconds[first], -LINE * max(0, row + 1 - ROWS))

        y = row * LINE
        body.append(f'<text y="{y + 14}" textLength="{len(line) * CHARACTER:.1f}">'
                    f"{escape(line, False)}</text>")
        body.append(f'<g {cover.attributes()}>'
                    f'<rect class="cover" y="{y}" width="{WIDTH}" height="{LINE}"/></g>')
        moves.append(cover)
    return f"<g {scroll.attributes()}>{''.join(body)}</g>", moves


def draw_clock(css, last, tick, cycle):
    """The seconds so far, which run: all that it will show is one below the other."""
    clock = Movement(f"{css}-clock", "Y", cycle)
    times = [*np.arange(0, last, tick), last]
    labels = []
    for i, second in enumerate(times):
        clock.to(second, -LINE * i)
        labels.append(f'<text class="head end {css}" y="{14 + LINE * i}">{second:.2f} s</text>')
    return f"<g {clock.attributes()}>{''.join(labels)}</g>", [clock]


def draw_pane(css, file, does, y, pieces, ends, cycle):
    """One file's pane, as SVG, and the movements in it."""
    lines, moves = draw_lines(css, pieces, ends, cycle)
    clock, more = draw_clock(css, ends[-1], 0.1 if ends[-1] > 1 else 0.05, cycle)
    right = WIDTH - LEFT
    body = [
        f'<rect class="pane" x="8" y="{y}" width="{WIDTH - 16}" height="{PANE}" rx="6"/>',
        f'<text class="{css}" font-weight="bold" x="{LEFT}" y="{y + 19}">{file}'
        f'<tspan class="say" dx="8" font-weight="normal">{does}</tspan></text>',
        f'<svg x="{right - 90}" y="{y + 5}" width="90" height="{LINE}">'
        f'<g transform="translate(90)">{clock}</g></svg>',
        f'<svg x="{LEFT}" y="{y + 28}" width="{right - LEFT}" height="{ROWS * LINE}">{lines}</svg>',
    ]
    return "\n".join(body), moves + more


def draw(pieces, n_prompt, ends):
    """The SVG. pieces: the prompt and each new token, as text; ends: {file: seconds of the new}."""
    slow, fast = ends["gpt2.py"], ends["gpt2_kvcache.py"]
    cycle = slow[-1] + PAUSE
    top, moves = draw_pane("slow", "gpt2.py", "runs the whole text for each token", 34,
                           pieces, slow, cycle)
    low, more = draw_pane("fast", "gpt2_kvcache.py", "runs only the newest token",
                          34 + PANE + 8, pieces, fast, cycle)

    result = (f"{slow[-1]:.2f} s without, {fast[-1]:.2f} s with a KV cache: "
              f"{slow[-1] / fast[-1]:.0f} times as fast")
    end = Movement("end", "Y", cycle)
    end.to(0, 99)  # out of sight
    end.to(slow[-1], 0)
    y = 34 + 2 * (PANE + 8)
    small = (f"Median of {RUNS} runs. {cpu()}, {N_THREADS} thread, NumPy {np.__version__}, "
             f"{datetime.date.today():%F}")
    body = [
        f'<text class="say head" x="{LEFT}" y="23">The same {len(slow)} tokens, in real time'
        f'<tspan class="say" dx="8" font-weight="normal">model 1M, a prompt of {n_prompt} tokens'
        "</tspan></text>",
        top,
        low,
        f'<svg y="{y}" width="{WIDTH}" height="24"><g {end.attributes()}>'
        f'<text class="head" x="{LEFT}" y="16">{result}</text></g></svg>',
        f'<text class="say" style="font-size: 11.5px" x="{LEFT}" y="{y + 38}">'
        f"{escape(small, False)}</text>",
    ]
    rules = "\n".join(move.rule() for move in [*moves, *more, end])
    return SVG.format(css=CSS, height=y + 48, title=f"The same text in real time: {result}",
                      desc=escape(" ".join("".join(pieces).split()), False), cycle=cycle,
                      rules=rules, body="\n".join(body))


def main():
    encoder, hparams, params = load_encoder_hparams_and_params("1M")
    prompt = encoder.encode(PROMPT)
    new, ends = race(prompt, params, hparams["n_head"])
    pieces = [PROMPT, *(encoder.decode([i]) for i in new)]
    (HERE / "race.svg").write_text(draw(pieces, len(prompt), ends), "utf-8")
    print(", ".join(f"{file} {seconds[-1]:.2f} s" for file, seconds in ends.items()))
    print("race.svg is overwritten.")


if __name__ == "__main__":
    run_program(main, __doc__)
