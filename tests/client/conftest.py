import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.echo_service import Behaviour, EchoService


@pytest.fixture
def service() -> Iterator[EchoService]:
    with EchoService(Behaviour()) as running:
        yield running


@pytest.fixture
async def clean(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """The test must end with the tasks it began with, and without a complaint of the event loop."""
    before = asyncio.all_tasks() | {asyncio.current_task()}
    caplog.set_level(logging.WARNING)
    yield
    for _ in range(50):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            break
        await asyncio.sleep(0.02)
    assert not left
    gc.collect()  # tasks and futures that nobody asked for their error complain when they are collected
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
