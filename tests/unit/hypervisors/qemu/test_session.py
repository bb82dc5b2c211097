"""Which of QEMU's events are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from roost.hypervisors.base import Event
from roost.hypervisors.qemu.session import Sessions
from tests.unit.vms import HOST


@pytest.mark.parametrize(
    ("event", "data", "kind"),
    [
        ("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"}, "shutdown"),
        ("SHUTDOWN", {"guest": False, "reason": "host-signal"}, "shutdown"),
        ("BLOCK_IO_ERROR", {"device": "data", "action": "stop"}, "io-error"),
        ("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"}, None),
        ("BLOCK_IO_ERROR", {"device": "data", "action": "report"}, None),
        ("RTC_CHANGE", {"offset": 1}, None),
    ],
)
def test_an_event_is_told_when_it_is_news(event: str, data: dict[str, Any], kind: str | None) -> None:
    sessions = Sessions(HOST)
    heard: asyncio.Queue[Event] = asyncio.Queue()
    sessions._subscribers.append(heard)
    sessions._publish("v", event, data)
    assert heard.qsize() == (1 if kind else 0)
    assert kind is None or heard.get_nowait().kind == kind
