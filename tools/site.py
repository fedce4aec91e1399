"""Write the executed notebooks as static pages with an index, readable on a phone, in the dark and without a network.

Usage: python -m tools.site [--out build/site]
"""

import argparse
import html
import re
import sys
from pathlib import Path

import latex2mathml.converter
import nbformat
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from tools.folders import fresh_folder
from tools.notebooks import EMPTIED, ROOT, TASKS, results, tags

STYLE = """
:root { --text: #1f2328; --page: #ffffff; --quiet: #59636e; --code: #f6f8fa; --line: #d1d9e0; --link: #0969da; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --page: #0d1117; --quiet: #9198a1; --code: #161b22; --line: #3d444d; --link: #58a6ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; color: var(--text); background: var(--page);
       font: 1rem/1.6 system-ui, sans-serif; overflow-wrap: break-word; }
a { color: var(--link); }
h1, h2, h3 { line-height: 1.25; margin-top: 2rem; }
nav { border-bottom: 1px solid var(--line); padding-bottom: .5rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
pre, code { font: .85rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
pre { overflow-x: auto; padding: .75rem; margin: .5rem 0; border-radius: 6px; }
.highlight pre { background: var(--code); }
.output_text pre, .output_stream pre { border-left: 3px solid var(--line); border-radius: 0; }
.left-out { color: var(--quiet); font-style: italic; }
.prompt, .anchor-link { display: none; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
@media (max-width: 40rem) {  /* on a phone, wide figures are moved sideways rather than shrunk */
  .output_png { overflow-x: auto; }
  .output_png img { max-width: 46rem; }
}
math[display="block"] { margin: 1rem 0; overflow-x: auto; overflow-y: hidden; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border: 1px solid var(--line); padding: .35rem .75rem; text-align: left; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css">
</head>
<body>
<nav>{links}</nav>
<main>
{body}
</main>
</body>
</html>
"""
FORMULA = re.compile(r"```.*?```|`[^`\n]*`|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", re.S)


def formulas(markdown: str) -> str:
    """Markdown with its LaTeX formulas as MathML, which browsers draw by themselves; code is left alone."""

    def draw(found: re.Match) -> str:
        latex, display = found["block"] or found["inline"], "block" if found["block"] else "inline"
        return latex2mathml.converter.convert(" ".join(latex.split()), display=display) if latex else found[0]

    return FORMULA.sub(draw, markdown)


def body(notebook: NotebookNode) -> str:
    """A notebook's cells and outputs as HTML, without a page around them."""
    notebook = nbformat.from_dict(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = formulas(cell.source)
        elif tags(cell) & EMPTIED and not cell.outputs:
            note = "<p class='left-out'>Left out: it shows data that is not ours, or lives in a notebook only.</p>"
            cell.outputs = [nbformat.v4.new_output("display_data", data={"text/html": note})]
    content, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    return content


def title(notebook: NotebookNode) -> str:
    return notebook.cells[0].source.splitlines()[0].removeprefix("# ").replace("`", "")


def index(notebooks: dict[str, NotebookNode]) -> str:
    """The page that leads to the others, with what each reached."""
    parts = ["<h1>Homework 4, executed</h1>"]
    for name, notebook in notebooks.items():
        parts.append(f"<h2><a href='{name}.html'>{html.escape(title(notebook))}</a></h2>")
        for result in results(notebook):
            parts.append(
                f"<p>{result['metric']}: <strong>{result['value']:.2f}</strong>, target {result['target']:g}; "
                f"{result['data']} data, {result['test_size']:,} test examples; {result['device']}, "
                f"{result['seconds'] / 60:.0f} minutes</p>"
            )
    return "\n".join(parts)


def build(folder: Path, root: Path = ROOT) -> list[Path]:
    """Write the pages into ``folder``, in place of those of an earlier call; returns them, the index first.

    Raises:
        FileExistsError: if there is a folder that this tool did not make.
    """
    notebooks = {name: nbformat.read(root / f"{name}.ipynb", as_version=4) for name in TASKS}
    fresh_folder(folder, "tools.site")
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    dark = re.sub(r"background: #[0-9a-f]+", "background: none", dark)
    (folder / "style.css").write_text(f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{STYLE}")
    labels = {"index": "All three"} | {name: name for name in notebooks}
    links = "".join(f"<a href='{name}.html'>{text}</a>" for name, text in labels.items())
    contents = {"index": ("Homework 4", index(notebooks))}
    contents |= {name: (title(notebook), body(notebook)) for name, notebook in notebooks.items()}
    for name, (heading, content) in contents.items():
        page = PAGE.format(title=html.escape(heading), links=links, body=content)
        (folder / f"{name}.html").write_text(page)
    return [folder / f"{name}.html" for name in contents]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    try:
        pages = build(parser.parse_args().out)
    except OSError as error:
        print(f"no pages written: {error}", file=sys.stderr)
        return 1
    print(f"{pages[0]}: {len(pages)} pages, {sum(page.stat().st_size for page in pages) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
