from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from roost.errors import HostError, PermissionMissing
from roost.host import install
from roost.host.install import UNITS, render_units, unit_directory


@pytest.mark.parametrize("user", [False, True])
def test_units_are_complete(user: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROOST_HOME", raising=False)
    units = render_units(user=user, command=("/opt/roost/bin/roost",))
    assert set(units) == set(UNITS)
    assert "ExecStart=/opt/roost/bin/roost agent serve" in units["roost-agent.service"]
    assert "ExecStop=-/opt/roost/bin/roost agent drain" in units["roost-guests.service"]
    assert not any("@" in text or "Environment" in text for text in units.values())


def test_only_the_hosts_service_has_a_sandbox() -> None:
    assert "ProtectSystem=full" in render_units(user=False)["roost-agent.service"]
    assert "Protect" not in render_units(user=True)["roost-agent.service"]


def test_paths_are_quoted_for_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_HOME", "/srv/my vms")
    unit = render_units(user=False, command=("/opt/100% mine/roost",))["roost-agent.service"]
    assert 'ExecStart="/opt/100%% mine/roost" agent serve' in unit
    assert 'Environment="ROOST_HOME=/srv/my vms"' in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for name, text in render_units(user=False).items():
        (tmp_path / name).write_text(text)
    paths = [str(tmp_path / name) for name in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_users_units_follow_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/conf")
    assert unit_directory(user=True) == Path("/conf/systemd/user")
    assert unit_directory(user=False) == Path("/etc/systemd/system")


def test_a_service_of_the_host_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(PermissionMissing, match="--user"):
        install._require(user=False)


def test_a_host_without_systemd_is_told_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "has_systemd", lambda: False)
    with pytest.raises(HostError, match="roost agent serve"):
        install._require(user=True)
