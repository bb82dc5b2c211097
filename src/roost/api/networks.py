"""Networks in requests and answers of the agent's REST API.

Callers: the routes of networks. The CLI reads the JSON without these classes.
"""

from __future__ import annotations

from typing import Literal

from roost.model.base import Model
from roost.model.network import Network


class NetworkView(Network):
    """A network as the API shows it."""

    vms: tuple[str, ...]
    """Names of the VMs that have, or want, a NIC on it."""
    free: int
    """IPv4 addresses of its range that nobody has."""
    served: bool
    """Its DHCP and DNS server runs."""


class Proof(Model):
    """What one probe of `verify` showed."""

    rule: str
    """What was tried, as a sentence."""
    expected: Literal["passes", "is dropped"]
    outcome: Literal["proved", "broken", "not tried"]
    detail: str = ""
    """What was seen, or why it could not be tried."""
