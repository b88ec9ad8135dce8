"""The way in: the list of pages, and what comes with every page."""

from playwright.sync_api import Page, expect


def test_the_list_of_pages_leads_to_the_routing_lab(page: Page, base_url: str) -> None:
    page.goto(f"{base_url}voila/tree")
    expect(page.get_by_role("heading", name="Gating explorer")).to_be_visible()
    assert page.get_by_role("link", name="labs/routing").get_attribute("href") == "/voila/render/labs/routing.ipynb"
    assert page.errors == []  # type: ignore[attr-defined]


def test_a_page_comes_from_this_server_alone(page: Page, base_url: str) -> None:
    """No content network: a classroom without internet sees the same page."""
    hosts = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else ""))
    page.goto(f"{base_url}voila/render/labs/routing.ipynb", wait_until="networkidle")
    assert hosts <= {base_url.split("/")[2], ""}
    assert page.errors == []  # type: ignore[attr-defined]
