"""The static pages, and the picture at the top of the README."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from tools.folders import MARKER, fresh_folder
from tools.notebooks import ROOT, TASKS
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


pytestmark = pytest.mark.xdist_group("site")  # one process, so that the pages are built once


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Page]:
    return {path.stem: Page(path.read_text()) for path in build(tmp_path_factory.mktemp("site") / "site")}


def test_the_index_leads_to_the_three_notebooks_with_what_they_reached(pages):
    links = {link["href"] for link in pages["index"].all("a")}
    assert links == {"index.html"} | {f"{name}.html" for name in TASKS}
    assert "".join(pages["index"].text).count("target") == 3


@pytest.mark.parametrize("name", TASKS)
def test_every_figure_has_a_description_and_no_two_are_alike(pages, name):
    texts = [image["alt"] for image in pages[name].all("img") if image["src"].startswith("data:")]
    assert len(texts) >= 3 and len(set(texts)) == len(texts) and all(text.startswith("Figure: ") for text in texts)


@pytest.mark.parametrize("name", TASKS)
def test_pages_fit_a_phone_know_the_dark_and_need_no_script_and_no_latex(pages, name):
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in pages[name].all("meta")
    assert {"name": "color-scheme", "content": "light dark"} in pages[name].all("meta")
    assert pages[name].all("math") and not pages[name].all("script")
    assert not re.search(r"\$|\\[a-z]+\{", "".join(pages[name].text))


def test_formulas_become_mathml_and_code_stays():
    drawn = formulas("a `$x$` and $x^2$:\n$$\\frac{a}{b}$$\n```\n$y$ costs $5\n```")
    assert drawn.count("<math") == 2 and "`$x$`" in drawn and "<mfrac>" in drawn and "\n$y$ costs $5\n" in drawn


@pytest.mark.parametrize("marker", (None, "tools.colab_check"))
def test_a_folder_that_another_made_is_refused_and_kept(tmp_path, marker):
    (tmp_path / "thesis.txt").write_text("years")
    if marker:
        (tmp_path / MARKER).write_text(marker)
    with pytest.raises(FileExistsError, match=r"was not made by tools\.site"):
        fresh_folder(tmp_path, "tools.site")
    assert (tmp_path / "thesis.txt").read_text() == "years"


def test_a_folder_that_the_tool_made_is_emptied_and_used_again(tmp_path):
    folder = fresh_folder(tmp_path / "site", "tools.site")
    (folder / "old.html").touch()
    assert [path.name for path in fresh_folder(folder, "tools.site").iterdir()] == [MARKER]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fresh_folder(empty, "tools.site") == empty


def test_a_link_to_a_folder_is_refused(tmp_path):
    target = fresh_folder(tmp_path / "target", "tools.site")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(FileExistsError, match="is not a folder"):
        fresh_folder(tmp_path / "link", "tools.site")
    assert target.exists()


def test_the_commands_refuse_a_folder_of_the_users_with_one_message(tmp_path):
    (tmp_path / "thesis.txt").touch()
    for command in (["tools.site", "--out"], ["tools.colab_check", "--root"]):
        done = subprocess.run([sys.executable, "-m", *command, tmp_path], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and "was not made by" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
