"""Apply and edit: the difference first, then a question, and nothing typed is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from roost.errors import ConflictError, InvalidSpec, Problem
from tests.unit.agent_stub import Answer, Request, StubAgent, refusal
from tests.unit.cli.conftest import Golden, Roost
from tests.unit.cli.samples import MORE_CPUS, MORE_MEMORY, NEW_LABEL, NEW_NAME, applied

SPEC = "name: web\ncpus: 2\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "web.yaml"
    path.write_text(SPEC)
    return str(path)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person at the keyboard."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)


def answer(monkeypatch: pytest.MonkeyPatch, reply: bool) -> None:
    monkeypatch.setattr("click.confirm", lambda *_, **__: reply)


def dry_runs(stub: StubAgent) -> list[bool]:
    return [request.json["dry_run"] for request in stub.asked if request.method == "POST"]


def test_the_difference_says_when_each_change_takes_effect(
    stub: StubAgent, roost: Roost, golden: Golden, file: str, tmp_path: Path
) -> None:
    stub.on("POST", "/v1/apply", applied(MORE_CPUS, MORE_MEMORY, NEW_LABEL, restart_due=True))

    outcome = roost("--color", "always", "vm", "apply", file)

    assert outcome.status == 0
    assert dry_runs(stub) == [True, False]
    golden("vm-apply.txt", outcome.out.replace(str(tmp_path), ""))


def test_dry_run_only_shows(stub: StubAgent, roost: Roost, file: str) -> None:
    preview = applied(MORE_CPUS)
    stub.on("POST", "/v1/apply", preview)

    assert json.loads(roost("vm", "apply", file, "--dry-run", "-o", "json").out) == preview
    assert dry_runs(stub) == [True]


def test_what_can_never_change_is_refused_before_anything_is_done(
    stub: StubAgent, roost: Roost, file: str
) -> None:
    stub.on("POST", "/v1/apply", applied(MORE_CPUS, NEW_NAME))

    outcome = roost("vm", "apply", file)

    assert outcome.status == 4
    assert "name: web → www  (never)" in outcome.out
    assert "name can never change on an existing VM" in outcome.err
    assert dry_runs(stub) == [True]


def test_nothing_to_change_is_done(stub: StubAgent, roost: Roost, file: str) -> None:
    stub.on("POST", "/v1/apply", applied())

    assert roost("vm", "apply", file).out == f"{file}: nothing to change\n"
    assert dry_runs(stub) == [True]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("reply", [True, False])
def test_a_person_is_asked(
    stub: StubAgent, roost: Roost, file: str, monkeypatch: pytest.MonkeyPatch, reply: bool
) -> None:
    answer(monkeypatch, reply)
    stub.on("POST", "/v1/apply", applied(created=True))

    assert roost("vm", "apply", file).status == (0 if reply else 1)
    assert dry_runs(stub) == ([True, False] if reply else [True])


@pytest.mark.usefixtures("terminal")
def test_yes_is_not_asked(stub: StubAgent, roost: Roost, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, False)
    stub.on("POST", "/v1/apply", applied(MORE_CPUS))

    assert roost("vm", "apply", file, "--yes").status == 0
    assert dry_runs(stub) == [True, False]


class Editor:
    """An `$EDITOR` that runs Python on the file; counts how often it was opened and keeps what it saw."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        self._monkeypatch = monkeypatch

    def does(self, code: str) -> None:
        script = self._directory / "editor.py"
        seen = self._directory / "seen"
        seen.mkdir(exist_ok=True)
        script.write_text(
            "import pathlib, sys\n"
            "any_bytes = {'encoding': 'utf-8', 'errors': 'surrogateescape'}\n"
            f"file, seen = pathlib.Path(sys.argv[1]), pathlib.Path({str(seen)!r})\n"
            "text = file.read_text(**any_bytes)\n"
            "(seen / str(len(list(seen.iterdir())))).write_text(text, **any_bytes)\n"
            f"{code}\n"
            "file.write_text(text, **any_bytes)\n"
        )
        self._monkeypatch.setenv("VISUAL", f"{sys.executable} {script}")
        self._monkeypatch.setenv("TMPDIR", str(self._directory))
        self._monkeypatch.setattr("tempfile.tempdir", None)

    @property
    def seen(self) -> list[str]:
        return [path.read_text(errors="replace") for path in sorted((self._directory / "seen").iterdir())]

    @property
    def kept(self) -> list[Path]:
        return list(self._directory.glob("roost-web-*.yaml"))


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stub: StubAgent) -> Editor:
    stub.on("GET", "/v1/vms/web/spec", Answer(SPEC.encode()))
    return Editor(tmp_path, monkeypatch)


def test_edit_applies_what_was_written(stub: StubAgent, roost: Roost, editor: Editor) -> None:
    editor.does("text = text.replace('cpus: 2', 'cpus: 4')")
    stub.on("POST", "/v1/vms/web/apply", applied(MORE_CPUS))

    assert roost("vm", "edit", "web").status == 0
    assert stub.asked[-1].json == {"document": "name: web\ncpus: 4\n", "source": "web", "dry_run": False}
    assert editor.kept == []


def test_edit_without_a_change_asks_nothing_of_the_agent(
    stub: StubAgent, roost: Roost, editor: Editor
) -> None:
    editor.does("pass")

    assert roost("vm", "edit", "web").status == 0
    assert [request.method for request in stub.asked] == ["GET"]
    assert editor.kept == []


@pytest.mark.usefixtures("terminal")
def test_edit_opens_again_with_the_problems_above_their_lines(
    stub: StubAgent, roost: Roost, editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, True)
    editor.does(
        "text = text.replace('cpus: 999', 'cpus: 9') if '999' in text else text.replace('cpus: 2', 'cpus: 999')"
    )

    def check(request: Request) -> Answer:
        if "999" not in request.json["document"]:
            return Answer(applied(MORE_CPUS))
        return refusal(
            InvalidSpec([Problem("cpus", "too many", "at most 512", 2), Problem("spec", "sad")]), 400
        )

    stub.on("POST", "/v1/vms/web/apply", check)

    assert roost("vm", "edit", "web").status == 0
    assert editor.seen[1] == (
        "# roost: spec: sad\nname: web\n# roost: cpus: too many (at most 512)\ncpus: 999\n"
    )
    assert stub.asked[-1].json["document"] == "name: web\ncpus: 9\n"


def test_an_editor_without_a_terminal_has_one_try(stub: StubAgent, roost: Roost, editor: Editor) -> None:
    editor.does("text += '# more\\ncpus: 999\\n'")
    stub.on("POST", "/v1/vms/web/apply", refusal(InvalidSpec([Problem("cpus", "too many", line=2)]), 400))

    outcome = roost("vm", "edit", "web")

    assert (outcome.status, len(editor.seen)) == (2, 1)
    assert f"your text is kept in {editor.kept[0]}" in outcome.err


@pytest.mark.usefixtures("terminal")
def test_a_person_may_leave_a_mistake_for_later(
    stub: StubAgent, roost: Roost, editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, False)
    editor.does("text = text.replace('cpus: 2', 'cpus: 999')")
    stub.on("POST", "/v1/vms/web/apply", refusal(InvalidSpec([Problem("cpus", "too many", line=2)]), 400))

    outcome = roost("vm", "edit", "web")

    assert (outcome.status, len(editor.seen)) == (1, 1)
    assert "too many" in outcome.err
    assert f"your text is kept in {editor.kept[0]}" in outcome.err


@pytest.mark.usefixtures("terminal")
def test_edit_that_is_given_up_keeps_the_text_and_names_the_file(
    stub: StubAgent, roost: Roost, editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, True)
    editor.does("text = text.replace('cpus: 2', 'cpus: 999')")
    stub.on("POST", "/v1/vms/web/apply", refusal(InvalidSpec([Problem("cpus", "too many", line=2)]), 400))

    outcome = roost("vm", "edit", "web")

    assert outcome.status == 2
    assert len(editor.seen) == 2
    [kept] = editor.kept
    assert f"your text is kept in {kept}" in outcome.err
    assert "cpus: 999" in kept.read_text()


def test_edit_keeps_the_text_when_the_agent_refuses_for_another_reason(
    stub: StubAgent, roost: Roost, editor: Editor
) -> None:
    editor.does("text = text.replace('cpus: 2', 'cpus: 4')")
    stub.on("POST", "/v1/vms/web/apply", ConflictError("web is busy", hint="wait"))

    outcome = roost("vm", "edit", "web")

    assert outcome.status == 4
    assert f"wait; your text is kept in {editor.kept[0]}" in outcome.err


@pytest.mark.usefixtures("terminal")
def test_edit_keeps_the_text_when_the_answer_is_no(
    stub: StubAgent, roost: Roost, editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, False)
    editor.does("text = text.replace('cpus: 2', 'cpus: 4')")
    stub.on("POST", "/v1/vms/web/apply", applied(MORE_CPUS))

    outcome = roost("vm", "edit", "web")

    assert outcome.status == 1
    assert str(editor.kept[0]) in outcome.err


@pytest.mark.usefixtures("terminal")
def test_edit_that_is_interrupted_names_the_file(
    stub: StubAgent, roost: Roost, editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("click.confirm", interrupt)
    editor.does("text = text.replace('cpus: 2', 'cpus: 4')")
    stub.on("POST", "/v1/vms/web/apply", applied(MORE_CPUS))

    outcome = roost("vm", "edit", "web")

    assert outcome.status == 130
    assert f"your text is kept in {editor.kept[0]}" in outcome.err


def test_what_is_no_utf8_is_the_agents_to_refuse(stub: StubAgent, roost: Roost, editor: Editor) -> None:
    editor.does("text = text.replace('cpus: 2', 'cpus: 4 # \\udcff')")
    stub.on("POST", "/v1/vms/web/apply", refusal(InvalidSpec([Problem("spec", "not UTF-8", line=3)]), 400))

    assert roost("vm", "edit", "web").status == 2
    assert b"cpus: 4 # \xff\n" in editor.kept[0].read_bytes()


@pytest.mark.parametrize(
    ("command", "message"), [("/nonexistent/editor", "cannot be run"), ("false", "status 1")]
)
def test_an_editor_that_fails_leaves_no_text_that_nobody_changed(
    roost: Roost, editor: Editor, monkeypatch: pytest.MonkeyPatch, command: str, message: str
) -> None:
    editor.does("pass")
    monkeypatch.setenv("VISUAL", command)

    outcome = roost("vm", "edit", "web")

    assert outcome.status == 1
    assert message in outcome.err
    assert "kept" not in outcome.err
    assert editor.kept == []
