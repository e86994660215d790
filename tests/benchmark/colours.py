"""The colours of the drawings, on light pages and on dark ones. Prints nothing."""

CSS = """svg { --page: #ffffff; --pane: #f6f8fa; --line: #d1d9e0; --text: #1f2328; --soft: #59636e;
  --slow: #bc4c00; --fast: #0969da }
@media (prefers-color-scheme: dark) { svg { --page: #0d1117; --pane: #151b23; --line: #3d444d;
  --text: #f0f6fc; --soft: #9198a1; --slow: #f0883e; --fast: #4493f8 } }
.page { fill: var(--page) } .slow { fill: var(--slow) } .fast { fill: var(--fast) }"""
