"""The static pages, and the picture at the top of the README."""

import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from tools import overview
from tools.notebooks import TASKS
from tools.site import build, formulas


class Page(HTMLParser):
    """The attributes of every tag, and the text outside of code."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self.inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("pre", "code", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.text.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Page]:
    return {path.stem: Page(path.read_text()) for path in build(tmp_path_factory.mktemp("site") / "site")}


def test_the_index_leads_to_the_three_notebooks_with_what_they_reached(pages):
    links = {link["href"] for link in pages["index"].all("a")}
    assert links == {"index.html"} | {f"{name}.html" for name in TASKS}
    assert "".join(pages["index"].text).count("bar") == 3


@pytest.mark.parametrize("name", TASKS)
def test_every_figure_has_a_description_and_no_two_are_alike(pages, name):
    said = [image["alt"] for image in pages[name].all("img") if image["src"].startswith("data:")]
    assert len(said) >= 3 and len(set(said)) == len(said) and all(text.startswith("Figure: ") for text in said)


@pytest.mark.parametrize("name", TASKS)
def test_pages_fit_a_phone_know_the_dark_and_need_no_script_and_no_latex(pages, name):
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in pages[name].all("meta")
    assert {"name": "color-scheme", "content": "light dark"} in pages[name].all("meta")
    assert pages[name].all("math") and not pages[name].all("script")
    assert not re.search(r"\$|\\[a-z]+\{", "".join(pages[name].text))


def test_formulas_become_mathml_and_code_stays():
    made = formulas("a `$x$` and $x^2$:\n$$\\frac{a}{b}$$\n```\n$y$ costs $5\n```")
    assert made.count("<math") == 2 and "`$x$`" in made and "<mfrac>" in made and "\n$y$ costs $5\n" in made


def test_the_picture_of_the_readme_shows_the_saved_notebooks():
    """Run python -m tools.overview after the notebooks were executed anew."""
    assert Image.open(overview.PICTURE).text["Source"] == overview.fingerprints()
