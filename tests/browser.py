"""Headless Chromium for tests: screenshots, the page's own measures, and printing."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)

# A frame has the width we ask for; a window can't be narrower than the browser allows.
FRAME = '<iframe width="{width}" height="{height}" srcdoc="{page}"></iframe>'

FRAMES = """<!doctype html><meta charset="utf-8"><style>body{{margin:0}}iframe{{border:0;display:block}}</style>
{frames}<pre id="measures"></pre>
<script>
function measured(frame) {{
  const page = frame.contentDocument, root = page.documentElement;
  const scrolls = e => ["auto", "scroll", "hidden"].includes(frame.contentWindow.getComputedStyle(e).overflowX);
  const boxed = e => {{ while ((e = e.parentElement)) if (scrolls(e)) return true; return false; }};
  const beyond = e => e.getBoundingClientRect().right > root.clientWidth + 0.5 && !boxed(e);
  return {{
    client: root.clientWidth, scroll: root.scrollWidth, text: page.body.innerText, scripts: page.scripts.length,
    wide: [...page.querySelectorAll("body *")].filter(beyond).map(e => e.outerHTML.slice(0, 80)),
    ids: [...page.querySelectorAll("[id]")].map(e => e.id),
    broken: [...page.images].filter(image => !image.naturalWidth).length
  }};
}}
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map(measured);
  document.getElementById("measures").textContent = JSON.stringify(found);
}});
</script>"""


def chromium() -> str:
    """Return the browser; without one, fail on a build server and skip elsewhere."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found:
        return found
    reason = "headless Chromium is not installed (Debian: apt install chromium)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def run(folder: Path, page: Path, *flags: str) -> str:
    """Open a page and return what the browser prints; its profile is a new folder."""
    profile = folder / f"profile-{len(list(folder.glob('profile-*')))}"
    command = [chromium(), *FLAGS, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def framed(folder: Path, height: int, *views: tuple[Path, int]) -> Path:
    """Return a page with a frame per (report, width), which measures them."""
    frames = [FRAME.format(width=width, height=height, page=html.escape(report.read_text())) for report, width in views]
    path = folder / f"frames-{len(list(folder.glob('frames-*')))}.html"
    path.write_text(FRAMES.format(frames="".join(frames)))
    return path


def measure(folder: Path, *views: tuple[Path, int]) -> list[dict]:
    """Return what the browser measures of each (report, width in CSS pixels)."""
    printed = run(folder, framed(folder, 900, *views), "--window-size=1200,900", "--dump-dom")
    found = re.search(r'<pre id="measures">(.*?)</pre>', printed, re.S)
    assert found, printed[-500:]
    return json.loads(html.unescape(found.group(1)))


def screenshot(folder: Path, report: Path, width: int, height: int, dark: bool = False) -> Path:
    """Return a picture of a report that is this wide, on a light or a dark screen."""
    out = folder / f"{report.stem}-{width}{'-dark' if dark else ''}.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    run(
        folder,
        framed(folder, height, (report, width)),
        scheme,
        f"--window-size={width},{height}",
        f"--screenshot={out}",
    )
    return out


def print_pdf(folder: Path, report: Path) -> Path:
    """Return the report printed as PDF."""
    out = folder / f"{report.stem}.pdf"
    run(folder, report, f"--print-to-pdf={out}", "--no-pdf-header-footer")
    return out
