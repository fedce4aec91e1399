"""Put together the picture at the top of the README, from figures of the saved notebooks.

Usage: python -m tools.overview
"""

import base64
import io
import sys

import nbformat
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tools.notebooks import ROOT, TASKS

PICTURE = ROOT / "benchmarks" / "results" / "overview.png"
SHOWN = (  # notebook, and the first words of the figure's description
    ("hw4_rnn", "Figure: After the last word"),
    ("hw4_seq2seq", "Figure: Where the decoder looks"),
    ("hw4_vit", "Figure: Accuracy ("),
    ("hw4_vit", "Figure: Pictures of ours"),
)


def fingerprints() -> str:
    """Which saved notebooks the figures come from."""
    read = (nbformat.read(ROOT / f"{name}.ipynb", as_version=4) for name in TASKS)
    return " ".join(notebook.metadata["hw4"]["code_sha256"][:12] for notebook in read)


def figure(name: str, begins: str) -> Image.Image:
    """The figure of a notebook whose description begins so.

    Raises:
        ValueError: unless there is exactly one.
    """
    notebook = nbformat.read(ROOT / f"{name}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    found = [o for o in outputs if o.get("metadata", {}).get("image/png", {}).get("alt", "").startswith(begins)]
    if len(found) != 1:
        raise ValueError(f"{name} has {len(found)} figures that begin with {begins!r}: expected 1")
    return Image.open(io.BytesIO(base64.b64decode(found[0]["data"]["image/png"]))).convert("RGB")


def main() -> int:
    figures, gap = [figure(*shown) for shown in SHOWN], 16
    width, height = max(f.width for f in figures), sum(f.height for f in figures) + gap * (len(figures) - 1)
    picture, top = Image.new("RGB", (width, height), "white"), 0
    for part in figures:
        picture.paste(part, ((width - part.width) // 2, top))
        top += part.height + gap
    said = PngInfo()
    said.add_text("Source", fingerprints())
    picture.quantize(256).save(PICTURE, pnginfo=said, optimize=True)
    print(f"{PICTURE.relative_to(ROOT)}: {width} x {height}, {PICTURE.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
