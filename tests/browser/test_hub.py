"""A JupyterHub in a real browser: a link leads through the login to the lab in its state, and progress has the user's name."""

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from explorer.lessons.progress import Progress
from tests.hub.hub import PASSWORD, Hub, running_hub

LAB = "voila/render/notebooks/labs/routing.ipynb?mechanism=switch&seed=5"
LESSON = "voila/render/notebooks/lessons/2_top_k_routing.ipynb"
PATIENCE = 180_000  # milliseconds: a cold server and a cold kernel on a busy machine


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub"), GATING_EXPLORER_LESSON_STEPS="20") as hub:
        yield hub


def log_in(page: Page, user: str) -> None:
    page.get_by_label("Username").fill(user)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


def test_a_link_opens_the_lab_in_its_state_after_the_login(page: Page, hub: Hub) -> None:
    page.goto(f"{hub.address}/hub/user-redirect/{LAB}")
    log_in(page, "ada")
    train = page.get_by_role("button", name="Train", exact=True)
    expect(train).to_be_enabled(timeout=PATIENCE)
    assert page.url == f"{hub.address}/user/ada/{LAB}"
    expect(page.get_by_label("seed")).to_have_value("5")
    chosen = page.get_by_label("mechanism", exact=True).locator("option:checked")
    expect(chosen).to_have_text("Switch routing")
    train.click()
    page.wait_for_function("Number(document.querySelector('.ge-status b').textContent) >= 3", timeout=PATIENCE)
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(train).to_be_enabled(timeout=PATIENCE)
    copied = urlsplit(copied_link(page))
    assert copied.path == f"/hub/user-redirect/{urlsplit(LAB).path}", "not below /user/ada/, where only Ada gets in"
    assert parse_qs(copied.query).items() >= {"mechanism": ["switch"], "seed": ["5"]}.items()
    assert complaints(page) == []
    # the goodbye of a page that is left ends its kernel here too, where the hub checks where requests come from
    page.evaluate("dispatchEvent(new Event('beforeunload'))")
    until_no_kernel_is_left(page, hub)


def complaints(page: Page) -> list[str]:
    """All but one: the hub's own page listens to the start of a server, and is left in the middle of that."""
    errors: list[str] = page.errors  # type: ignore[attr-defined]
    return [one for one in errors if "/server/progress?" not in one]


def copied_link(page: Page) -> str:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Save and share").click()
    page.get_by_role("button", name="Copy link", exact=True).click()
    expect(page.get_by_text("Copied.").first).to_be_visible(timeout=PATIENCE)
    return str(page.evaluate("navigator.clipboard.readText()"))


def until_no_kernel_is_left(page: Page, hub: Hub) -> None:
    for _ in range(PATIENCE // 500):
        if page.request.get(f"{hub.address}/user/ada/api/kernels").json() == []:
            return
        page.wait_for_timeout(500)
    raise AssertionError(hub.log)


def test_a_lesson_knows_its_student_and_leads_to_lab(page: Page, hub: Hub) -> None:
    page.goto(f"{hub.address}/hub/user-redirect/{LESSON}")
    log_in(page, "ada")
    expect(page.get_by_text("is kept as ada")).to_be_visible(timeout=PATIENCE)
    assert page.get_by_label("your name").count() == 0
    number = page.get_by_role("spinbutton").first
    number.fill("30")
    number.press("Enter")
    progress = Progress(hub.homes / "ada/.local/share/gating-explorer/progress.sqlite")
    for _ in range(PATIENCE // 500):
        if progress.rows():
            break
        page.wait_for_timeout(500)
    assert [(row.student, row.lesson, row.kind, row.value) for row in progress.rows()] == [
        ("ada", 2, "prediction", 30.0)
    ]
    link = page.get_by_role("link", name="open it there").first
    expect(link).to_have_attribute("href", "/user/ada/lab/tree/notebooks/lessons/2_top_k_routing.ipynb")
    assert complaints(page) == []
