"""Commands in a guest."""

from __future__ import annotations

import base64

from roost.client.agent import Agent
from roost.client.guest import Ran
from tests.unit.agent_stub import StubAgent


def test_a_command_travels_with_its_input_and_comes_back_with_its_output(
    stub: StubAgent, agent: Agent
) -> None:
    answer = {"exit_code": 3, "signal": None, "stdout": "AP8=", "stderr": "", "truncated": False}
    stub.on("POST", "/v1/vms/web/exec", answer)

    ran = agent.guest.run("web", ["sh", "-c", "cat"], env={"A": "b"}, stdin=b"\0in", timeout_s=9)

    assert (ran.status, ran.stdout, ran.stderr) == (3, b"\0\xff", b"")
    request = stub.asked[0].json
    assert request == {
        "argv": ["sh", "-c", "cat"],
        "env": {"A": "b"},
        "stdin": base64.b64encode(b"\0in").decode(),
        "timeout": 9,
    }


def test_a_signal_is_128_and_its_number() -> None:
    assert Ran(None, 9, b"", b"", truncated=False).status == 137
