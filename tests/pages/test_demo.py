"""`listener demo` as somebody sees it who tries it for the first time: it says where the page is, and it is of use."""

import asyncio
import re

import pytest

from listener import demo
from tests.pages.conftest import visit


@pytest.mark.faults
async def test_the_demo_opens_its_page_to_whoever_reads_the_terminal() -> None:
    said: list[str] = []
    stopping = asyncio.Event()
    playing = asyncio.create_task(demo.play(said.append, stopping))
    try:
        async with asyncio.timeout(60):
            while not any("random business" in line for line in said):
                assert not playing.done(), said
                await asyncio.sleep(0.05)
        found = re.search(r"the page: (http://\S+)  access token: (\w+)", "\n".join(said))
        assert found
        async with visit(found[1]) as seen:
            await seen.login(found[2])
            await seen.page.wait_for_selector(".sentence:has-text('Vẫn gửi bình thường'), .sentence:has-text('tốt')")
            await seen.photograph("demo")
            await seen.open("/rules")
            await seen.photograph("demo-rules")
            await seen.open("/rules/order_status")
            await seen.page.wait_for_selector("#result .bubble")
            await seen.photograph("demo-rule")
            await seen.open("/messages")
            await seen.photograph("demo-messages")
    finally:
        stopping.set()
        await playing
