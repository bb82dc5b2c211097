"""What tests may take for granted of a lab with several nodes."""

from __future__ import annotations

import pytest

from tests.lab.lab import Lab
from tests.lab.node import CommandFailed

pytestmark = pytest.mark.full


def test_nodes_reach_each_other_by_name_and_nothing_else(lab: Lab) -> None:
    one, two = lab.nodes(2)

    one.run(["ping", "-c", "1", "-W", "10", "node2"])
    two.run(["ping", "-c", "1", "-W", "10", "node1"])
    assert one.run(["ip", "route", "show", "default"]) == ""
    with pytest.raises(CommandFailed, match="unreachable"):
        one.run(["ping", "-c", "1", "192.0.2.1"])


def test_a_node_carries_large_packets_whole(lab: Lab) -> None:
    """An overlay network needs the whole MTU of the wire below it."""
    one, _ = lab.nodes_on

    one.run(["ping", "-c", "1", "-W", "10", "-M", "do", "-s", str(1500 - 28), "node2"])


def test_a_file_is_the_same_after_a_reboot(lab: Lab) -> None:
    one, _ = lab.nodes_on
    content = bytes(range(256)) * 2048
    one.put("/root/file", content)

    one.reboot()

    assert one.get("/root/file") == content
