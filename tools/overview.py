"""Put together the picture at the top of the README, from figures of the saved notebooks.

Usage: python -m tools.overview
"""

import base64
import io
import sys

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tools.notebooks import ROOT, TASKS, read

PICTURE = ROOT / "benchmarks" / "results" / "overview.png"
SHOWN = (  # notebook, and the first words of the figure's description
    ("hw4_rnn", "Figure: After the last word"),
    ("hw4_seq2seq", "Figure: Where the decoder looks"),
    ("hw4_vit", "Figure: Accuracy ("),
    ("hw4_vit", "Figure: Pictures of ours"),
)


def source() -> str:
    """Which runs of the notebooks the figures come from."""
    return " ".join(read(name).metadata.get("hw4", {}).get("fingerprint", "unknown")[:12] for name in TASKS)


def figure(name: str, begins: str) -> Image.Image:
    """The figure of a notebook whose description begins so.

    Raises:
        ValueError: unless there is exactly one.
    """
    outputs = [output for cell in read(name).cells for output in cell.get("outputs", [])]
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
    notes = PngInfo()
    notes.add_text("Source", source())
    picture.quantize(256).save(PICTURE, pnginfo=notes, optimize=True)
    print(f"{PICTURE.relative_to(ROOT)}: {width} x {height}, {PICTURE.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
