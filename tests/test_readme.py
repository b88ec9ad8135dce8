"""The README says what is there: its table is the catalogue, its names exist, its files are in the repository."""

import re
from pathlib import Path

import pytest

import explorer

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_lists_the_catalogue():
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (.+?) \| .*?arxiv\.org/abs/([0-9.]+)\) \|$", README, re.MULTILINE)
    cards = [explorer.spec(name) for name in explorer.names()]
    assert rows == [(card.name, card.summary, card.paper.arxiv) for card in cards]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"explorer\.(\w+)\(", README))))
def test_what_the_examples_call_exists(name):
    assert callable(getattr(explorer, name))


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_what_it_links_to_is_there(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("family", sorted({explorer.spec(name).family for name in explorer.names()}))
def test_every_family_has_its_page(family):
    page = (ROOT / "explorer" / "mechanisms" / family / "README.md").read_text(encoding="utf-8")
    for name in explorer.names(family):
        assert f"`{name}`" in page
