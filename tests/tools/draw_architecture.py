"""Draw the picture of MARKDOWN_DOCS/ARCHITECTURE.md as MARKDOWN_DOCS/images/architecture.png.

    npm pack mermaid && tar xzf mermaid-*.tgz package/dist/mermaid.min.js
    python tests/tools/draw_architecture.py package/dist/mermaid.min.js

Needs fonts-liberation, and Chromium by the name `chromium` or in the variable CHROMIUM.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "MARKDOWN_DOCS"
WIDTH, HEIGHT = 1240, 1090
PAGE = """<!doctype html><meta charset="utf-8"><body style="margin: 16px; background: white">
<pre class="mermaid">{picture}</pre><script>{mermaid}</script>
<script>
    mermaid.initialize({{startOnLoad: true, theme: "neutral", flowchart: {{wrappingWidth: 400}}}})
</script>"""


def draw(mermaid: Path) -> None:
    """Write the picture. mermaid: the library's file for browsers."""
    text = (DOCS / "ARCHITECTURE.md").read_text(encoding="utf-8")
    found = re.search(r"```mermaid\n(.*?)```", text, re.DOTALL)
    if found is None:
        raise SystemExit("ARCHITECTURE.md has no Mermaid block")
    page = PAGE.format(picture=html.escape(found[1]), mermaid=mermaid.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "page.html"
        source.write_text(page, encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=5000"]
        options += [f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={folder}/profile"]
        picture = DOCS / "images" / "architecture.png"
        chromium = os.environ.get("CHROMIUM", "chromium")
        subprocess.run(
            [chromium, *options, f"--screenshot={picture}", source.as_uri()], check=True, timeout=120
        )


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
