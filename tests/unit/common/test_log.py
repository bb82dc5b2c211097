"""Logs: the file of a detached agent is bounded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
from pathlib import Path
from roost.common import log
log.BoundedStderr.__init__.__kwdefaults__["limit"] = 4096
log.configure_logging(file=Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    log.get_logger("test").info("a line", number=number)
print("after all", file=sys.stderr)
print("to the other descriptor")
"""


def run(log: Path, named: Path, lines: int) -> None:
    with log.open("ab") as output:
        command = [sys.executable, "-c", _PROGRAM, str(named), str(lines)]
        subprocess.run(command, stdout=output, stderr=output, check=True)


def test_a_full_log_is_turned_over_and_the_last_lines_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_text("of an earlier agent\n" * 1000)

    run(log, log, 300)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.log", "agent.log.1"]
    *lines, last, other = [
        line for path in (tmp_path / "agent.log.1", log) for line in path.read_text().splitlines()
    ]
    assert all(path.stat().st_size < 4096 + 200 for path in tmp_path.iterdir())
    numbers = [json.loads(line)["number"] for line in lines]
    assert numbers == list(range(numbers[0], 300))
    assert (last, other) == ("after all", "to the other descriptor")


def test_another_file_of_a_person_is_left_alone(tmp_path: Path) -> None:
    run(tmp_path / "mine.log", tmp_path / "agent.log", 300)

    assert [path.name for path in tmp_path.iterdir()] == ["mine.log"]
    assert len((tmp_path / "mine.log").read_text().splitlines()) == 302
