"""Words around a picture: the layer it is about, and the sentence in place of one that has nothing to show."""

import textwrap

from widgets.figures.layout import empty
from widgets.figures.picture import Plain
from widgets.figures.text import plain

NARROW = 40  # characters that a phone has room for


def titled(title: str, layer: str) -> str:
    """The title, and the layer it is about where one is given."""
    return f"{title}, {layer}" if layer else title


def nothing(title: str, sentence: str) -> Plain:
    """`empty` with the reason why, in lines that a phone can show."""
    picture = empty(title, sentence)
    picture["layout"]["annotations"][0]["text"] = "<br>".join(map(plain, textwrap.wrap(sentence, NARROW)))
    return picture
