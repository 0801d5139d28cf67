"""What a fence says is done, and nothing in a document escapes the check."""

from pathlib import Path

import pytest

from tools.docs_check.__main__ import DOCUMENTS
from tools.docs_check.blocks import NOT_RUN, Block, Doing, UnknownFence, blocks_of
from tools.testbed.process import ROOT

URL = "http://127.0.0.1:8000/readyz"


def only(document: str) -> Block:
    [block] = blocks_of(document, "page.md")
    return block


def fence(info: str, text: str = "true") -> str:
    return f"words\n\n```{info}\n{text}\n```\n"


@pytest.mark.parametrize(
    ("info", "doing", "detail"),
    [
        pytest.param("sh", Doing.RUN, "", id="shell"),
        pytest.param(f"sh until={URL}", Doing.START, URL, id="service"),
        pytest.param("sh docker", Doing.SKIP, NOT_RUN["docker"], id="docker"),
        pytest.param("sh account", Doing.SKIP, NOT_RUN["account"], id="account"),
        pytest.param("python", Doing.RUN, "", id="python"),
        pytest.param("python postgres", Doing.SKIP, NOT_RUN["postgres"], id="python that needs a database"),
        pytest.param("json", Doing.READ, "", id="json"),
        pytest.param("", Doing.READ, "", id="nothing"),
    ],
)
def test_fence_says_what_is_done(info: str, doing: Doing, detail: str) -> None:
    """A reader's shell, a terminal of its own, or a reason why not."""
    block = only(fence(info))

    assert (doing, detail) == (block.doing, block.detail)
    assert ("page.md:3", "true\n") == (block.place, block.text)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(fence("bash"), id="another language"),
        pytest.param(fence("sh later"), id="unknown word"),
        pytest.param(fence("python until=x"), id="word behind python"),
        pytest.param(fence("json", "{"), id="broken json"),
        pytest.param("words\n\n    indented\n", id="indented"),
    ],
)
def test_block_that_says_nothing_is_refused(document: str) -> None:
    """A block that nobody would run must not look like one that is checked."""
    with pytest.raises(UnknownFence, match=r"page\.md:3"):
        only(document)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_of_the_documents_is_understood(name: str) -> None:
    """The check of a fresh clone takes minutes; a wrong fence shows here."""
    assert list(blocks_of((ROOT / name).read_text("utf-8"), name))


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=str(path.relative_to(ROOT)))
        for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
        if str(path.relative_to(ROOT)) not in DOCUMENTS
    ],
)
def test_other_documents_have_no_commands(path: Path) -> None:
    """A page with commands belongs among those that are checked."""
    assert [] == [block for block in blocks_of(path.read_text("utf-8"), path.name) if block.doing is not Doing.READ]


def test_readme_is_short() -> None:
    """What, start, ask, sign, use; the rest has pages of its own."""
    assert 130 >= len((ROOT / "README.md").read_text("utf-8").splitlines())
