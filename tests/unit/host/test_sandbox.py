from __future__ import annotations

import os
from pathlib import Path

import pytest

from roost.common.paths import Home
from roost.errors import NoCapacityError, StorageError
from roost.host import sandbox
from roost.host.sandbox import COUNT, FIRST_UID, UidPool, chown_tree, give


def pool(tmp_path: Path, *, home: str = "/a", **etc: str) -> UidPool:
    for name, text in etc.items():
        (tmp_path / name).write_text(text)
    proc = tmp_path / "proc"
    proc.mkdir(exist_ok=True)
    return UidPool(Home(Path(home), Path(home)), etc=tmp_path, proc=proc)


def test_uids_lie_in_the_range_and_are_never_given_twice(tmp_path: Path) -> None:
    uids = pool(tmp_path)
    given = {uids.allocate(set()) for _ in range(50)}
    assert len(given) == 50
    assert all(FIRST_UID <= uid < FIRST_UID + COUNT for uid in given)


def test_a_used_uid_is_not_given(tmp_path: Path) -> None:
    first = pool(tmp_path).allocate(set())
    assert pool(tmp_path).allocate({first}) != first


def test_two_homes_start_at_different_places(tmp_path: Path) -> None:
    assert pool(tmp_path, home="/a").allocate(set()) != pool(tmp_path, home="/b").allocate(set())


def test_users_groups_and_subordinate_ranges_are_refused(tmp_path: Path) -> None:
    first = pool(tmp_path).allocate(set())
    taken = pool(
        tmp_path,
        passwd=f"someone:x:{first}:100::/:/bin/sh\n",
        group=f"some:x:{first + 1}:\nbroken line\n",
        subuid=f"someone:{first + 2}:10\n",
        subgid=f"someone:{first + 12}:3\nbroken:x\n",
    )
    assert taken.allocate(set()) == first + 15


def test_a_full_range_is_an_error_that_says_where_to_look(tmp_path: Path) -> None:
    full = pool(tmp_path, subuid=f"x:{FIRST_UID}:{COUNT}\n")
    with pytest.raises(NoCapacityError, match="/etc/subuid"):
        full.allocate(set())


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("")
    target.chmod(0o644)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(StorageError):
        give(tmp_path / "link", None, 0o600)
    assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change owners")
def test_a_tree_is_given_away_but_not_what_its_links_point_to(tmp_path: Path) -> None:
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "inner" / "file").touch()
    (tmp_path / "outside").touch()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "outside")
    chown_tree(tmp_path / "tree", None)
    chown_tree(tmp_path / "tree", FIRST_UID)
    owners = [path.lstat().st_uid for path in (tmp_path / "tree", *(tmp_path / "tree").rglob("*"))]
    assert owners == [FIRST_UID] * 4
    assert (tmp_path / "outside").stat().st_uid == 0


def test_running_uids_of_this_host_include_ours() -> None:
    assert Path("/proc/self").stat().st_uid in sandbox._running_uids(Path("/proc"))
