"""`roost agent serve`: what it is asked to listen on."""

from __future__ import annotations

import click
import pytest

from roost.cli.agent import serve


def listens(*arguments: str) -> object:
    """Click keeps the option for help from the first context, so this one must be like the program's."""
    context = serve.make_context("serve", list(arguments), help_option_names=["-h", "--help"])
    return context.params["metrics_listen"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("9680", ("127.0.0.1", 9680)),
        (":9680", ("127.0.0.1", 9680)),
        ("0.0.0.0:9680", ("0.0.0.0", 9680)),  # noqa: S104
        ("[::1]:9680", ("::1", 9680)),
        ("node7.example.org:1", ("node7.example.org", 1)),
    ],
)
def test_a_port_alone_is_on_the_host_itself(written: str, meant: tuple[str, int]) -> None:
    assert listens("--metrics-listen", written) == meant


def test_the_environment_can_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_METRICS_LISTEN", "9680")
    assert listens() == ("127.0.0.1", 9680)


@pytest.mark.parametrize("written", ["", "host", "host:", "0", "65536", "host:http", "1:2:x", "-1"])
def test_what_is_no_place_is_wrong_usage(written: str) -> None:
    with pytest.raises(click.UsageError, match="is not HOST:PORT or a port"):
        listens(f"--metrics-listen={written}")
