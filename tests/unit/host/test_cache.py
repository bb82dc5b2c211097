from __future__ import annotations

import json
from pathlib import Path

from roost.host.cache import keep


def test_a_look_at_the_host_makes_no_home(tmp_path: Path) -> None:
    keep(tmp_path / "home" / "cache" / "kvm.json", {})
    assert list(tmp_path.iterdir()) == []


def test_what_was_found_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    keep(tmp_path / "cache" / "kvm.json", {"kvm": True})
    assert json.loads((tmp_path / "cache" / "kvm.json").read_text()) == {"kvm": True}
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
