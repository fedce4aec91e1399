"""Put together the picture at the top of the README, from figures of the saved notebooks.

Usage: python -m tools.overview
"""

import base64
import io
import sys

from nbformat import NotebookNode
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from tools.notebooks import ROOT, TASKS, read

PICTURE = ROOT / "docs" / "overview.png"
MARGIN, LINE = 12, 30  # pixels
SHOWN = (  # label, notebook, the first words of the figure's description, and which of several that begin so
    ("News: topic after each word of a headline of ours", "hw4_rnn", "Figure: 'A robot that plays", 0),
    ("Translation: where the decoder looks", "hw4_seq2seq", "Figure: Where the decoder looks", 0),
    ("Images: Part II's training of the Vision Transformer", "hw4_vit", "Figure: Accuracy (", -1),
    ("Images: what its class token looks at, pictures of ours", "hw4_vit", "Figure: Pictures of ours", 0),
)


def source() -> str:
    """Which runs of the notebooks the figures come from."""
    return " ".join(read(name).metadata.get("hw4", {}).get("fingerprint", "unknown")[:12] for name in TASKS)


def figure(notebook: NotebookNode, begins: str, which: int) -> Image.Image:
    """A figure of a notebook whose description begins so.

    Raises:
        ValueError: if there is none.
    """
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    known = [(o.get("metadata", {}).get("image/png", {}).get("alt", ""), o) for o in outputs]
    found = [output for alt, output in known if alt.startswith(begins)]
    if not found:
        raise ValueError(f"no figure begins with {begins!r}; there are {'; '.join(alt for alt, _ in known if alt)}")
    return Image.open(io.BytesIO(base64.b64decode(found[which].data["image/png"]))).convert("RGB")


def main() -> int:
    figures = [(label, figure(read(name), begins, which)) for label, name, begins, which in SHOWN]
    width = max(part.width for _, part in figures) + 2 * MARGIN
    picture = Image.new("RGB", (width, sum(part.height + LINE + MARGIN for _, part in figures)), "white")
    draw, font, top = ImageDraw.Draw(picture), ImageFont.load_default(18), 0
    for label, part in figures:
        draw.text((MARGIN, top + 6), label, "black", font)
        picture.paste(part, ((width - part.width) // 2, top + LINE))
        top += part.height + LINE + MARGIN
    notes = PngInfo()
    notes.add_text("Source", source())
    picture.save(PICTURE, pnginfo=notes, optimize=True)
    print(f"{PICTURE.relative_to(ROOT)}: {picture.width} x {picture.height}, {PICTURE.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
