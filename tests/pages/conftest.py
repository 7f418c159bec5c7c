"""A person's own browser: Chromium, driven over a page that a real daemon serves.

Where no Chromium is found these tests are skipped by name. Each page is photographed into tests/artefacts/.
"""

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, ConsoleMessage, Page, Request, async_playwright

from tests.support.browser import ADMIN

ARTEFACTS = Path(__file__).parents[1] / "artefacts"
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
CHROMIUM = os.environ.get("LISTENER_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SCREENS = {"desktop": (1280, 900), "phone": (375, 740)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None:
        for item in items:
            if Path(item.path).parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason="no Chromium is found (apt-get install chromium)"))


@dataclass(slots=True)
class Visit:
    """A browser window on the page; what went wrong in it is kept, and must be nothing at the end."""

    address: str
    context: BrowserContext
    page: Page
    screen: str
    wrong: list[str] = field(default_factory=list)

    async def open(self, path: str) -> None:
        await self.page.goto(self.address + path)

    async def login(self, token: str = ADMIN, name: str = "Lan") -> None:
        await self.open("/login")
        await self.page.fill("[name=token]", token)
        await self.page.fill("[name=name]", name)
        await self.page.click("button.strong")
        await self.page.wait_for_selector(".verdict")

    async def photograph(self, name: str) -> None:
        """A screenshot of the whole page, which must fit the screen's width."""
        ARTEFACTS.mkdir(exist_ok=True)
        await self.page.screenshot(path=ARTEFACTS / f"{name}-{self.screen}.png", full_page=True)
        width = await self.page.evaluate("document.documentElement.scrollWidth")
        assert width <= SCREENS[self.screen][0], f"{name} is {width} wide"

    async def faults(self) -> list[str]:
        """What axe-core finds that is serious: rule, and where."""
        await self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = await self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{v['id']}: {node['target']} {node['failureSummary']}"
            for v in found["violations"]
            if v["impact"] in ("serious", "critical")
            for node in v["nodes"]
        ]


@asynccontextmanager
async def visit(
    address: str | None, screen: str = "desktop", scheme: str = "light", language: str = "vi"
) -> AsyncIterator[Visit]:
    """Opens a browser; on leaving, nothing may have gone wrong: no console error, no request to elsewhere."""
    assert address is not None
    assert CHROMIUM is not None
    width, height = SCREENS[screen]
    async with async_playwright() as tools:
        browser = await tools.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
        context = await browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            timezone_id="Asia/Ho_Chi_Minh",
        )
        context.set_default_timeout(15_000)
        await context.add_cookies([{"name": "listener_lang", "value": language, "url": address}])
        seen = Visit(address=address, context=context, page=await context.new_page(), screen=screen)

        def console(message: ConsoleMessage) -> None:
            if message.text.startswith("htmx:sendAbort"):
                # A newer request took its place, or the page was left: how htmx tells that is no fault.
                with suppress(ValueError):
                    seen.wrong.remove(f"console: {message.text.replace('sendAbort', 'afterRequest')}")
            elif message.type in ("error", "warning"):
                seen.wrong.append(f"console: {message.text}")

        def request(sent: Request) -> None:
            if not re.match(rf"{re.escape(address)}/|data:", sent.url):
                seen.wrong.append(f"request to {sent.url}")

        seen.page.on("console", console)
        seen.page.on("pageerror", lambda error: seen.wrong.append(f"script: {error}"))
        seen.page.on("dialog", lambda dialog: seen.wrong.append(f"dialog: {dialog.message}"))
        context.on("request", request)
        try:
            yield seen
        finally:
            await browser.close()
        assert seen.wrong == []
