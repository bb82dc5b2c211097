"""A VM's whole life on the command line: what the CLI asks is what the API takes, and what it answers is understood."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contract.cli.conftest import Roost

pytestmark = pytest.mark.usefixtures("agent")


def done(outcome: subprocess.CompletedProcess[str]) -> str:
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `roost` that goes on until the block ends."""
    command = [sys.executable, "-m", "roost.cli.main", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def web(roost: Roost) -> str:
    """A running VM."""
    done(roost("vm", "create", "--name", "web", "--image", "tiny", "--memory", "64MiB", "--start"))
    return "web"


def test_a_vms_life(roost: Roost, tmp_path: Path) -> None:
    spec = tmp_path / "web.yaml"
    spec.write_text("name: web\nimage: tiny\nmemory: 64MiB\nlabels: {tier: front}\n")

    assert "qemu: accepted" in done(roost("vm", "plan", str(spec)))
    assert done(roost("vm", "create", "-", typed=spec.read_text())).startswith("web is stopped (")
    assert done(roost("vm", "start", "web")).startswith("web is running (")
    assert done(roost("vm", "wait", "web", "--for", "ready")) == "web is running\n"
    assert "web " in done(roost("vm", "list", "--label", "tier=front"))
    assert done(roost("vm", "list", "-q", "--label", "tier=back")) == ""
    for verb, state in [
        ("pause", "warm"),
        ("resume", "running"),
        ("sleep", "sleeping"),
        ("wake", "running"),
        ("reboot", "running"),
        ("restart", "running"),
        ("stop", "stopped"),
    ]:
        assert done(roost("vm", verb, "web")).startswith(f"web is {state}"), verb
    assert done(roost("vm", "delete", "web", "--delete-disks")).startswith("web is deleted")
    assert roost("vm", "show", "web").returncode == 3


def test_many_at_once(roost: Roost, web: str) -> None:
    assert done(roost("vm", "clone", web, "web-{1..3}", "--no-start")).count("is stopped") == 3
    started = roost("vm", "start", "web-1", "web-2", "nope", "web-3", "-o", "json")

    assert started.returncode == 3
    assert [vm["state"] for vm in json.loads(started.stdout)] == ["running"] * 3
    assert json.loads(started.stderr)["error"]["code"] == "not_found"
    assert len(json.loads(done(roost("vm", "list", "-o", "json")))) == 4


def test_a_spec_with_mistakes_names_their_lines(roost: Roost) -> None:
    outcome = roost("vm", "create", "-", typed="name: web\ncpu_count: 3\nmemory: lots\n")

    assert outcome.returncode == 2
    assert "line 2: cpu_count: there is no such key" in outcome.stderr
    assert "line 3: memory" in outcome.stderr


def test_apply_and_edit(roost: Roost, web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tmp_path / "web.yaml"
    spec.write_text("name: web\nimage: tiny\nmemory: 64MiB\ncpus: 2\n")

    assert "cpus: 1 → 2  (at the next start)" in done(roost("vm", "apply", str(spec), "--dry-run"))
    assert "roost vm restart" in done(roost("vm", "apply", str(spec)))
    assert done(roost("vm", "apply", str(spec))) == f"{spec}: nothing to change\n"

    monkeypatch.setenv("VISUAL", "sed -i s/^cpus:.*/cpus:\\ 3/")
    done(roost("vm", "edit", web))
    assert json.loads(done(roost("vm", "show", web, "-o", "json")))["cpus"] == 3

    monkeypatch.setenv("VISUAL", "sed -i s/^cpus:.*/cpus:\\ many/")
    given_up = roost("vm", "edit", web)
    assert given_up.returncode == 2
    kept = Path(given_up.stderr.strip().rpartition("your text is kept in ")[2])
    assert "# roost: cpus: " in kept.read_text()
    kept.unlink()


def test_in_and_out_of_a_guest(roost: Roost, web: str, tmp_path: Path) -> None:
    assert done(roost("vm", "exec", web, "--", "echo", "-n", "hello")) == "-n hello\n"
    assert done(roost("vm", "exec", web, "--", "cat", typed="piped")) == "piped"
    assert roost("vm", "exec", web, "--", "false").returncode == 1
    assert roost("vm", "exec", web, "--", "no-such-program").returncode == 125

    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(0o600)
    done(roost("vm", "cp", str(tmp_path / "key"), f"{web}:/root/key"))
    done(roost("vm", "cp", f"{web}:/root/key", str(tmp_path / "back")))
    assert (tmp_path / "back").read_text() == "secret"
    assert roost("vm", "cp", f"{web}:/no/such/file", str(tmp_path)).returncode == 1
    done(roost("vm", "stop", web))
    assert roost("vm", "exec", web, "--", "true").returncode == 125


def test_parts(roost: Roost, web: str) -> None:
    done(roost("vm", "snapshot", "create", web, "before", "--description", "the upgrade"))
    assert "the upgrade" in done(roost("vm", "snapshot", "list", web))
    assert roost("vm", "snapshot", "create", web, "before").returncode == 4
    done(roost("vm", "snapshot", "revert", web, "before"))
    done(roost("vm", "snapshot", "delete", web, "before"))
    assert json.loads(done(roost("vm", "snapshot", "list", web, "-o", "json"))) == []

    assert done(roost("vm", "disk", "attach", web, "--size", "1GiB", "--name", "data")) == "web has data\n"
    done(roost("vm", "disk", "resize", web, "data", "2GiB"))
    done(roost("vm", "disk", "detach", web, "data"))
    assert done(roost("vm", "nic", "attach", web, "--forward", "8080:80")).startswith("web has nic 1")
    done(roost("vm", "nic", "detach", web, "1"))
    assert roost("vm", "nic", "detach", web, "7").returncode == 3


def test_looking(roost: Roost, web: str, home: Path) -> None:
    shown = json.loads(done(roost("vm", "show", web, "-o", "json")))
    log = home / "vms" / shown["id"] / "serial.log"
    log.write_bytes(b"one\ntwo\nlogin: ")

    assert "Machine" in done(roost("vm", "show", web))
    assert done(roost("vm", "logs", web)) == "one\ntwo\nlogin: "
    assert done(roost("vm", "logs", web, "-n", "1")) == "login: "
    assert roost("vm", "screenshot", web, str(home / "x.png")).returncode == 4


def test_the_console_is_carried_through_the_api(roost: Roost, web: str) -> None:
    with running("vm", "console", web, "--history", "4") as console:
        assert console.stdout
        assert console.stdout.read(4) == b"hist"

    done(roost("vm", "stop", web))
    assert roost("vm", "console", "nope").returncode == 3


def test_images(roost: Roost) -> None:
    done(roost("image", "build", "tiny", "--name", "mine"))
    assert "mine" in done(roost("image", "list"))
    assert "kind" in done(roost("image", "show", "mine", "--verify"))
    assert done(roost("image", "delete", "mine")) == "mine is deleted\n"
    assert roost("image", "delete", "mine", "debian", "nope", "-o", "json").returncode == 3


def test_events_are_followed_until_the_agent_ends(
    roost: Roost, web: str, agent: subprocess.Popen[bytes], home: Path
) -> None:
    with running("vm", "events", "-o", "json") as events:
        assert events.stdout
        while not select.select([events.stdout], [], [], 0)[0]:  # a stream shows what happens once it is open
            done(roost("vm", "pause", web))
            done(roost("vm", "resume", web))
        first = json.loads(events.stdout.readline())
        agent.terminate()
        events.communicate(timeout=30)

    assert first["vm"] == web
    assert events.returncode == 0


def test_version_and_drain(roost: Roost, web: str) -> None:
    assert json.loads(done(roost("version", "-o", "json")))["agent"]["api"] == 1
    done(roost("agent", "drain"))
    assert json.loads(done(roost("vm", "show", web, "-o", "json")))["state"] == "stopped"


def test_a_network_over_several_hosts_is_made_and_told_its_peers(roost: Roost) -> None:
    made = roost(
        "network", "create", "acme", "--net-id", "12", "--underlay", "192.0.2.1", "--peer", "192.0.2.2"
    )
    assert made.stdout == "acme is there (nat, 10.243.0.0/24, fd72:6f6f:7374:c::/64)\n", made.stderr
    hosts = ("192.0.2.1", "192.0.2.3", "192.0.2.2")
    assert roost("network", "peers", "acme", *hosts).stdout == "acme is shared with 192.0.2.2, 192.0.2.3\n"
    page = " ".join(roost("network", "show", "acme").stdout.split())
    assert "underlay 192.0.2.1 peers 192.0.2.2, 192.0.2.3" in page
    assert "mtu 1450" in page
    wrong = roost("network", "peers", "acme", "eth0")
    assert wrong.returncode != 0
    assert "'eth0' is not an address" in wrong.stderr
    assert roost("network", "peers", "acme", "--none").stdout == "acme is shared with nobody\n"
    assert "give the addresses of the other hosts, or --none" in roost("network", "peers", "acme").stderr
