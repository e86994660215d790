"""Draw race.svg: both files write the same text, in real time. Half a minute.

    python tests/lesson/draw_race.py

This overwrites race.svg beside it. Both files continue PROMPT with models/1M,
in turn, RUNS times each. A token appears when it was chosen, in the median of
the runs. After PAUSE seconds the race begins again. Where reduced motion is
asked for, the picture shows the end.
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
CHARACTER, LINE = 8.2, 19  # width and height, in units of the drawing
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 372" width="640" role="img">
<title>The same text in real time: {result}</title>
<desc>{text}</desc>
<style>
{css}
text {{ font: 13.5px ui-monospace, Menlo, Consolas, monospace; fill: var(--text) }}
.say {{ font: 13px "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--soft) }}
.head {{ font: bold 15px "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--text) }}
.small {{ font-size: 11.5px }} .bold {{ font-weight: bold }} .end {{ text-anchor: end }}
.pane {{ fill: var(--pane); stroke: var(--line) }} .cover {{ fill: var(--pane) }}
.slow {{ fill: var(--slow) }} .fast {{ fill: var(--fast) }}
@media (prefers-reduced-motion: no-preference) {{
  .moves {{ animation: {cycle:.2f}s step-end infinite }} }}
</style>
<rect class="page" width="480" height="372" rx="6"/>
<text class="head" x="18" y="23">The same {n} tokens, in real time</text>
<text class="say end" x="462" y="23">model 1M, a prompt of {n_prompt} tokens</text>
{slow}
{fast}
<svg y="308" width="480" height="24">{end}</svg>
<text class="say small" x="18" y="346">{cpu}</text>
<text class="say small" x="18" y="362">{conditions}</text>
</svg>
"""
PANE = """<svg y="{y}">
<rect class="pane" x="8" width="464" height="129" rx="6"/>
<text class="{css} bold" x="18" y="19">{file}</text>
<text class="say" x="{x}" y="19">{does}</text>
<svg x="372" y="5" width="90" height="19">{clock}</svg>
<svg x="18" y="28" width="444" height="95">{lines}</svg>
</svg>"""


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


def moving(content, name, axis, places, cycle):
    """The SVG of content that moves along an axis. places: (second, its place from then on) each.

    Where nothing moves, it is at the last place.
    """
    frames = {}  # {number of the frame: CSS}; the last one said for a frame holds
    for second, place in places:
        frames[math.ceil(second / FRAME)] = f"transform:translate{axis}({place:.1f}px)"
    last = frames[max(frames)]
    steps = "".join(f"{100 * n * FRAME / cycle:.2f}%{{{css}}}" for n, css in frames.items())
    return (f"<style>@keyframes {name}{{{steps}to{{{last}}}}}</style>"
            f'<g class="moves" style="{last};animation-name:{name}">{content}</g>\n')


def draw_lines(css, pieces, seconds, cycle):
    """The text of a pane, which scrolls up. A cover hides what of a line is not chosen yet."""
    n_there = np.cumsum([len(piece) for piece in pieces])  # characters, at each of these seconds
    body, scroll = [], []
    for row, (line, at) in enumerate(wrap("".join(pieces))):
        first = np.searchsorted(n_there, at, side="right")  # the piece with which the line begins
        scroll.append((seconds[first], -LINE * max(0, row + 1 - ROWS)))

        last = np.searchsorted(n_there, at + len(line))
        places = [(0, 0)]
        for n, second in zip(n_there[first : last + 1] - at, seconds[first:]):
            places.append((second, CHARACTER * min(n, len(line))))
        y = row * LINE
        body.append(f'<text y="{y + 14}" textLength="{len(line) * CHARACTER:.1f}">'
                    f"{escape(line, False)}</text>")
        cover = f'<rect class="cover" y="{y}" width="480" height="{LINE}"/>'
        body.append(moving(cover, f"{css}{row}", "X", places, cycle))
    return moving("".join(body), f"{css}-scroll", "Y", scroll, cycle)


def draw_clock(css, last, tick, cycle):
    """The seconds so far, which run: all that it will show is one below the other."""
    times = [*np.arange(0, last, tick), last]
    body = [f'<text class="head end {css}" x="90" y="{14 + LINE * i}">{second:.2f} s</text>'
            for i, second in enumerate(times)]
    places = [(second, -LINE * i) for i, second in enumerate(times)]
    return moving("".join(body), f"{css}-clock", "Y", places, cycle)


def draw_pane(css, y, file, does, pieces, seconds, cycle):
    """The SVG of one file's pane."""
    tick = 0.1 if seconds[-1] > 1 else 0.05
    return PANE.format(css=css, y=y, file=file, does=does, x=28 + CHARACTER * len(file),
                       clock=draw_clock(css, seconds[-1], tick, cycle),
                       lines=draw_lines(css, pieces, seconds, cycle))


def draw(pieces, n_prompt, ends):
    """The SVG. pieces: the prompt and each new token, as text; ends: {file: seconds of the new}."""
    slow, fast = ([0, *ends[file]] for file in FILES)  # the prompt is there at once
    cycle = slow[-1] + PAUSE
    result = (f"{slow[-1]:.2f} s without, {fast[-1]:.2f} s with a KV cache: "
              f"{slow[-1] / fast[-1]:.0f} times as fast")
    end = f'<text class="head" x="18" y="16">{result}</text>'
    conditions = (f"{N_THREADS} thread, NumPy {np.__version__}, median of {RUNS} runs, "
                  f"{datetime.date.today():%F}")
    return SVG.format(
        result=result, text=escape(" ".join("".join(pieces).split()), False), css=CSS, cycle=cycle,
        n=len(pieces) - 1, n_prompt=n_prompt, conditions=conditions, cpu=escape(cpu(), False),
        slow=draw_pane("slow", 34, "gpt2.py", "runs the whole text for each token", pieces, slow,
                       cycle),
        fast=draw_pane("fast", 171, "gpt2_kvcache.py", "runs only the newest token", pieces, fast,
                       cycle),
        end=moving(end, "end", "Y", [(0, 99), (slow[-1], 0)], cycle))  # at 99 it is out of sight


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
