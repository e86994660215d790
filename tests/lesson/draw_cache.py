"""Draw cache.svg: what attention computes, without and with a cache. A second.

    python tests/lesson/draw_cache.py

This overwrites cache.svg beside it.
"""
import sys
from html import escape
from pathlib import Path

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/benchmark")]

from colours import CSS
from measuring import run_program

import gpt2_kvcache
from utils import load_encoder_hparams_and_params

PROMPT, N_STEPS, SIDE = "The wolf said", 3, 18  # SIDE: from one cell to the next
LEGEND = [("new", "computed in this step"), ("kept", "read from the cache"),
          ("new masked", "computed, then masked"), ("past", "not needed any more")]
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 {height}" width="480" role="img">
<title>What attention computes in each step, without and with a KV cache</title>
<desc>Without: those of all tokens. With: from step 2 on only those of the newest token.</desc>
<style>
{css}
text {{ font: 13px "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--text) }}
.soft {{ fill: var(--soft) }} .bold {{ font-weight: bold }}
.end {{ text-anchor: end }} .new {{ fill: #dd7127 }} .kept {{ fill: #3b82d4 }}
.masked {{ opacity: 0.35 }} .past {{ fill: none; stroke: var(--soft); stroke-dasharray: 2 2 }}
</style>
<rect class="page" width="400" height="{height}" rx="6"/>
{body}
</svg>
"""


def cell(css, x, y):
    return f'<rect class="{css}" x="{x}" y="{y}" width="16" height="16" rx="2"/>'


def text(said, x, y, css="", turn=0):
    at = f'x="{x}" y="{y}" transform="rotate({turn} {x} {y})"'
    return f'<text class="{css}" {at}>{escape(said, False)}</text>'


def square(words, n_new, x, y):
    """A step that runs the last n_new words: their queries, all keys and values, the scores."""
    n, left = len(words), x + 72  # left of the keys, values and scores
    yield text("scores", left + 4, y + 56, "soft")
    for said, down in ("key", 13), ("value", 31), ("query", 56):
        yield text(said, left - 6, y + down, "soft end")
    for j, word in enumerate(words):
        across, down, new = left + SIDE * j, y + 62 + SIDE * j, j >= n - n_new
        yield text(word, across + 12, y - 4, turn=-55)
        yield from (cell("new" if new else "kept", across, row) for row in (y, y + SIDE))
        yield text(word, x + 44, down + 13, "end" if new else "end soft")
        yield cell("new" if new else "past", x + 50, down)
        for i in range(n if new else j + 1):  # the score of query j with key i
            css = "past" if not new else "new" if i <= j else "new masked"
            yield cell(css, left + SIDE * i, down)
    yield text(f"tokens run: {n_new}, scores: {n_new * n}", x + 8, y + 80 + SIDE * n, "soft")


def draw(words, n_prompt):
    """The SVG. words: all tokens, as text; the first n_prompt of them are the prompt."""
    body, y = [text("One head of one layer; the others do the same", 12, 24, "bold"),
               text("gpt2.py, without a cache", 12, 102, "bold"),
               text("gpt2_kvcache.py, with a cache", 202, 102, "bold")], 132
    for i, (css, said) in enumerate(LEGEND):
        x, down = 12 + 196 * (i % 2), 50 + 22 * (i // 2)
        body += [cell(css, x, down - 12), text(said, x + 24, down + 1)]
    for step, n in enumerate(range(n_prompt, len(words)), 1):
        body.append(text(f"Step {step}: the next token will be \u201c{words[n]}\u201d", 12, y))
        for x, n_new in (4, n), (200, n if step == 1 else 1):
            body += square(words[:n], n_new, x, y + 46)
        y += SIDE * n + 152
    return SVG.format(css=CSS, height=y - 26, body="\n".join(body))


def main():
    encoder, hparams, params = load_encoder_hparams_and_params("1M")
    prompt = encoder.encode(PROMPT)
    ids = [*prompt, *gpt2_kvcache.generate(prompt, params, hparams["n_head"], N_STEPS)]
    picture = draw([encoder.decode([i]).strip() for i in ids], len(prompt))
    (HERE / "cache.svg").write_text(picture, "utf-8")
    print("cache.svg is overwritten.")


if __name__ == "__main__":
    run_program(main, __doc__)
