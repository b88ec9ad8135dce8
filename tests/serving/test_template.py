"""The template of our pages: what a link says of the theme reaches the page only as a name that is known."""

from pathlib import Path

import pytest
from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader

import explorer.serving

OURS = Path(explorer.serving.__file__).parent / "share/voila/templates/gating-explorer"
STANDS_IN = {
    "voila/templates/lab/index.html.j2": '<body data-jp-theme-name="{{ resources.theme }}">',
    "spinner.macro.html.j2": "",
}


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("dark", "dark"),
        ("light", "light"),
        ("JupyterLab Dark", "JupyterLab Dark"),
        ('" onmouseover=pwn() "', "light"),
        ("</script><script>pwn()</script>", "light"),
        ("", "light"),
        (None, "light"),
    ],
)
def test_the_theme_of_a_link_is_a_name_that_is_known(asked: str | None, shown: str) -> None:
    environment = Environment(loader=ChoiceLoader([DictLoader(STANDS_IN), FileSystemLoader(OURS)]))
    made = environment.get_template("index.html.j2").render(resources={"theme": asked})
    assert made == f'<body data-jp-theme-name="{shown}">'
