"""What keeps a page from being read by everybody, as axe-core finds it: contrast, names, roles, order, keyboard."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


def broken_rules(page: Page) -> list[str]:
    """Each broken rule, with where; the rules are those of WCAG 2.2 and of good practice that a program can check."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]]
