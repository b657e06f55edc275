"""Waiting for descriptors in an event loop, without a thread."""

from __future__ import annotations

import asyncio

from bpfpin.syscall.waiter import Waiter


async def ready(waiter: Waiter, timeout_s: float) -> bool:
    """Do what `waiter.wait` does without keeping the loop; `ValueError` once it is closed."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()
    # Each has a number of its own, since a loop has one reader for a number.
    with waiter.watched() as fd:
        loop.add_reader(fd, _settle, woken)
        try:
            await asyncio.wait_for(woken, timeout_s)
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(fd)
    return True


async def pause(seconds: float) -> None:
    """Let the other tasks of the loop run."""
    await asyncio.sleep(seconds)


def _settle(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
