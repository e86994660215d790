"""Draw race.svg: both files write the same text, each token when it was measured; in 10 seconds.

    python tests/lesson/draw_race.py

Both continue PROMPT with models/1M, in turn, RUNS times each. A token appears when the call of
gpt2() that computes it ends: the median of the runs, slowed down so that the slower file takes
about SECONDS. After PAUSE seconds it begins again; it is still where reduced motion is asked for.
"""
import argparse
import datetime
import os
import sys
import textwrap
from html import escape
from itertools import accumulate, pairwise
from pathlib import Path

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/benchmark")]
N_THREADS = os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # 1M is too small to gain from more

import numpy as np
from measuring import cpu, timed_generate

import gpt2
import gpt2_kvcache
from utils import load_encoder_hparams_and_params

PROMPT, N_TOKENS, RUNS = "The giant was so", 42, 15
SECONDS, PAUSE = 12, 3
TOP = 72  # of both panes
X, PANE, BAR, COLUMNS, LINE = 14, 270, 140, 32, 17  # SVG's units, but COLUMNS is in characters
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 {height}" width="830" role="img">
<title>{title}</title>
<desc>{desc}</desc>
<style>
svg {{ --page: #ffffff; --pane: #f6f8fa; --line: #d1d9e0; --text: #1f2328; --soft: #59636e;
  --slow: #bc4c00; --fast: #0969da }}
@media (prefers-color-scheme: dark) {{ svg {{ --page: #0d1117; --pane: #151b23; --line: #3d444d;
  --text: #f0f6fc; --soft: #9198a1; --slow: #f0883e; --fast: #4493f8 }} }}
text {{ font: 12.8px ui-monospace, Menlo, Consolas, monospace; fill: var(--text) }}
.say {{ font: 13px "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--soft) }}
.head {{ font-size: 15px; fill: var(--text) }} .bold {{ font-weight: bold }}
.end {{ text-anchor: end }} .page {{ fill: var(--page) }} .track {{ fill: var(--line) }}
.pane {{ fill: var(--pane); stroke: var(--line) }}
.slow {{ fill: var(--slow) }} .fast {{ fill: var(--fast) }}
@media (prefers-reduced-motion: no-preference) {{ .bar {{ animation: {cycle:.2f}s linear infinite }}
  tspan {{ animation: {cycle:.2f}s step-end infinite }} }}
{rules}
</style>
<rect class="page" width="560" height="{height}" rx="6"/>
{body}
</svg>
"""


def race(ids, params, n_head):
    """The ids that continue ids, and when each was there in gpt2.py and in gpt2_kvcache.py."""
    runs = [timed_generate(module, ids, params, n_head, N_TOKENS)
            for module in [gpt2, gpt2_kvcache] * (RUNS + 1)]  # the first of each warms up
    if any(run.ids != runs[0].ids for run in runs):
        raise ValueError("the two files do not continue the prompt with the same ids every time")
    times = [np.cumsum(run.seconds) for run in runs]  # seconds since the start
    return runs[0].ids, np.median(times[2::2], axis=0), np.median(times[3::2], axis=0)


def wrap(pieces):
    """The text of the pieces in lines, each of them a list of (number of the piece, part of it)."""
    text, ends, at = "".join(pieces), [0, *accumulate(map(len, pieces))], 0
    for line in [line for part in text.split("\n") for line in textwrap.wrap(part, COLUMNS)]:
        start = text.index(line, at)
        at = start + len(line)
        yield [(i, text[max(a, start) : min(b, at)]) for i, (a, b) in enumerate(pairwise(ends))
               if max(a, start) < min(b, at)]


def pane(css, name, does, left, pieces, times, slowest, loop):
    """The CSS rules of one file, its elements from left and TOP on, and where they end."""
    at = [f"{100 * second / loop:.3f}%" for second in [0, *times]]  # the prompt is there at once
    rules = [f"@keyframes {css}{i}{{0%{{fill-opacity:0}}{percent},to{{fill-opacity:1}}}}"
             for i, percent in enumerate(at)]
    rules.append(f"@keyframes {css}{{0%{{transform:scaleX(0)}}{at[-1]},to{{transform:scaleX(1)}}}}")
    rows = [[f'<tspan {"" if i else f"""class="bold {css}" """}style="animation-name:{css}{i}">'
             f"{escape(part, False)}</tspan>" for i, part in line] for line in wrap(pieces)]
    end = TOP + 78 + LINE * len(rows)
    x, y, right = left + 10, TOP, left + PANE - 10
    return rules, [
        f'<rect class="pane" x="{left}" y="{y}" width="{PANE}" height="{end - y}" rx="6"/>',
        f'<text class="bold {css}" x="{x}" y="{y + 20}">{name}</text>',
        f'<text class="say" x="{x}" y="{y + 38}">{does}</text>',
        f'<text class="say" x="{x}" y="{y + 58}">time</text>',
        f'<rect class="track" x="{x + 34}" y="{y + 50}" width="{BAR}" height="8"/>',
        f'<g transform="translate({x + 34} {y + 50})"><rect class="bar {css}" height="8" '
        f'width="{BAR * times[-1] / slowest:.1f}" style="animation-name:{css}"/></g>',
        f'<text class="bold end {css}" x="{right}" y="{y + 58}">'
        f'<tspan style="animation-name:{css}{len(times)}">{1000 * times[-1]:.0f} ms</tspan></text>',
        *(f'<text x="{x}" y="{y + 82 + LINE * n}">{"".join(row)}</text>'
          for n, row in enumerate(rows))], end


def draw(pieces, n_prompt, slow, fast):
    """The SVG. pieces: the prompt and each new token, as text; slow, fast: the times of the new."""
    slower = round(SECONDS / slow[-1])
    scale = slow[-1], slow[-1] + PAUSE / slower
    rules, top, y = pane("slow", "gpt2.py", "runs all of the text for each token", 8, pieces, slow,
                         *scale)
    more, low, y = pane("fast", "gpt2_kvcache.py", "runs only the newest token", 282, pieces, fast,
                        *scale)
    title = f"The same text, {slow[-1] / fast[-1]:.1f} times faster with a KV cache"
    shown = f"Shown {slower} times slower than measured"
    small = "The 1M model and a short prompt: a larger model or a longer text gains far more."
    said = [f"{n_prompt} tokens of prompt (bold), {len(slow)} new ones. Median of {RUNS} runs "
            "of each file.", f"{cpu()}, {N_THREADS} thread{'s' * (N_THREADS != '1')}, NumPy "
            f"{np.__version__}, {datetime.date.today():%d %B %Y}"]
    body = [f'<text class="say head bold" x="{X}" y="26">{title}</text>',
            f'<text class="say" x="{X}" y="44">{small}</text>',
            f'<text class="say" x="{X}" y="61">{shown}</text>', *top, *low,
            *(f'<text class="say" x="{X}" y="{y + 24 + LINE * n}">{escape(line, False)}</text>'
              for n, line in enumerate(said))]
    desc = escape(f"{shown}. gpt2.py: {1000 * slow[-1]:.0f} ms, gpt2_kvcache.py: "
                  f"{1000 * fast[-1]:.0f} ms. The text: {' '.join(''.join(pieces).split())}", False)
    return SVG.format(height=y + 20 + LINE * len(said), title=title, desc=desc,
                      cycle=slower * scale[1], rules="\n".join(rules + more), body="\n".join(body))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    encoder, hparams, params = load_encoder_hparams_and_params("1M", str(ROOT / "models"))
    prompt = encoder.encode(PROMPT)
    new, *times = race(prompt, params, hparams["n_head"])
    pieces = [PROMPT, *(encoder.decode([i]) for i in new)]
    (HERE / "race.svg").write_text(draw(pieces, len(prompt), *times), "utf-8")
    print(f"gpt2.py {1000 * times[0][-1]:.0f} ms, gpt2_kvcache.py {1000 * times[1][-1]:.0f} ms")
