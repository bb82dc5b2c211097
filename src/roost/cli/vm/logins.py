"""The one-time password of a new VM, in words: it is shown once, with the user whom it lets in.

Callers: create, apply and edit.
"""

from __future__ import annotations

from roost.cli.app import App
from roost.cli.output import Json
from roost.errors import RoostError


def first_login(app: App, made: Json) -> str:
    """A line to add to what is said of `made`, a VM or the result of an apply; empty when no password was drawn."""
    password = made["one_time_password"]
    if not password:
        return ""
    try:
        user = app.agent.vms.show(made["name"])["spec"]["user"]
    except RoostError:  # the password is shown whatever happens
        user = None
    whose = f"of {user}" if user else "of the image's default user"
    return f"\npassword {whose} for the first login, shown this once: {password}"
