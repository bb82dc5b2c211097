"""An agent that answers from a table, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from roost.client.agent import Agent
from tests.unit.agent_stub import StubAgent, serving


@pytest.fixture
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubAgent]:
    with serving(tmp_path_factory.mktemp("s") / "a.sock") as stub:
        yield stub


@pytest.fixture
def agent(stub: StubAgent) -> Agent:
    return Agent(stub.socket_path, timeout_s=5)
