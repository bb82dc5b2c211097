"""What shells complete: words without an agent, names with one, and never an error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.unit.agent_stub import Answer, StubAgent
from tests.unit.cli.conftest import Roost
from tests.unit.cli.samples import IMAGE, SNAPSHOT, vm


def completions(*words: str) -> list[str]:
    """What bash would offer for the last word."""
    ended = subprocess.run(
        [sys.executable, "-m", "roost.cli.main"],
        env={
            **os.environ,
            "_ROOST_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("roost", *words)),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert ended.stderr == ""
    return [line.partition(",")[2] for line in ended.stdout.splitlines() if line]


@pytest.fixture
def full(stub: StubAgent) -> StubAgent:
    stub.on("GET", "/v1/vms", [vm("web"), vm("worker"), vm("db")])
    stub.on("GET", "/v1/vms/web", vm("web"))
    stub.on("GET", "/v1/images", [IMAGE, {**IMAGE, "name": None}])
    stub.on("GET", "/v1/vms/web/snapshots", [SNAPSHOT])
    return stub


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["v"], ["vm", "version"]),
        (["vm", "sn"], ["snapshot"]),
        (["vm", "snapshot", "re"], ["revert"]),
        (["vm", "list", "-o", "j"], ["json"]),
        (["vm", "stop", "w"], ["web", "worker"]),
        (["vm", "stop", "web", "w"], ["web", "worker"]),
        (["vm", "stop", "--force", "d"], ["db"]),
        (["vm", "snapshot", "revert", "web", ""], ["before-upgrade"]),
        (["vm", "disk", "detach", "web", "r"], ["root"]),
        (["image", "show", ""], ["tiny"]),
        (["vm", "create", "--image", "t"], ["tiny"]),
        (["vm", "cp", "we"], ["web:"]),
        (["completion", "z"], ["zsh"]),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("full")
def test_words_and_names(words: list[str], offered: list[str]) -> None:
    assert completions(*words) == offered


def test_the_socket_on_the_command_line_counts(full: StubAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_SOCKET", "/nonexistent/a.sock")

    assert completions("--socket", str(full.socket_path), "vm", "stop", "d") == ["db"]


def test_no_agent_completes_nothing_in_silence(stub: StubAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_SOCKET", "/nonexistent/a.sock")

    assert completions("vm", "stop", "") == []


def test_an_agent_that_hangs_is_not_waited_for(stub: StubAgent) -> None:
    def hang(_request: object) -> Answer:
        time.sleep(3)
        return Answer([])

    stub.on("GET", "/v1/vms", hang)
    began = time.monotonic()

    assert completions("vm", "stop", "") == []
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_what_the_shell_can_read(roost: Roost, shell: str) -> None:
    outcome = roost("completion", shell)

    assert outcome.status == 0
    assert "_ROOST_COMPLETE" in outcome.out
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n"], input=outcome.out, text=True, check=True, timeout=30)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.usefixtures("full")
def test_bash_completes_a_name(roost: Roost, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The whole way: the script in a shell, which calls `roost`."""
    directory = tmp_path_factory.mktemp("bin")
    program = directory / "roost"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m roost.cli.main "$@"\n')
    program.chmod(0o755)
    script = roost("completion", "bash").out
    typed = 'COMP_WORDS=(roost vm stop wo); COMP_CWORD=3; _roost_completion roost; echo "${COMPREPLY[@]}"'

    ended = subprocess.run(
        ["bash", "-c", f"{script}\n{typed}"],
        env={**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )

    assert ended.stdout == "worker\n"
