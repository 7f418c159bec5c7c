"""Waiting for whichever comes first."""

import asyncio


async def wait_for_any(*events: asyncio.Event, seconds: float) -> None:
    """Until one of `events` is set, at most `seconds`."""
    if any(event.is_set() for event in events):
        # Let others run, even if there is always something to do.
        await asyncio.sleep(0)
        return
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
