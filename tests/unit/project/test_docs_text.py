"""What the documents say can be done: their commands parse, and their links lead somewhere. Nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from roost.cli.app import App
from roost.cli.main import root

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
GENERATED = ROOT / "docs" / "reference"

_BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_PREFIXES = {"sudo", "do", "then", "while", "until", "if", "!"}
_PLACE_TO_FILL = re.compile(r"[…<\[{*]|\.\.\.|^[A-Z][A-Z_-]+$")


_MADE_BY_TOOLS = {ROOT / "tests" / layer for layer in ("lab", "e2e")}
"""Named in CONTRIBUTING.md as layers of tests; `./dev` says so when a checkout has none."""


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=_name)


def _shell_lines(text: str) -> Iterator[str]:
    """Commands in blocks of shell; in blocks that show a session, the lines with a prompt."""
    for _, language, body in _BLOCK.findall(text):
        for line in body.replace("\\\n", " ").splitlines():
            if language == "sh" and not line.lstrip().startswith("#"):
                yield line
            elif language == "console" and line.startswith("$ "):
                yield line.removeprefix("$ ")


def _roost_commands(line: str) -> Iterator[list[str]]:
    """The arguments of each `roost` on a line of shell."""
    for inner in re.findall(r"\$\(([^()]*)\)", line):
        yield from _roost_commands(inner)
    lexer = shlex.shlex(re.sub(r"\$\([^()]*\)", "SUBSTITUTED", line), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;<>"):
            while command and (command[0] in _PREFIXES or re.match(r"\w+=", command[0])):
                command.pop(0)
            if command and (command[0] == "roost" or command[0].endswith("/bin/roost")):
                yield command[1:]
            command = []
        else:
            command.append(word)


def _mistake(arguments: list[str]) -> str:
    """What click says of a command line, parsed to its end; empty when it is right, or asks for help."""
    command: click.Command = root
    try:
        context = root.make_context("roost", list(arguments), obj=App())
        while isinstance(command, click.Group):
            name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            assert found is not None
            command, context = found, found.make_context(name, rest, parent=context)
    except click.exceptions.Exit:
        return ""
    except click.ClickException as error:
        return f"{shlex.join(['roost', *arguments])}: {error.format_message()}"
    return ""


@pytest.fixture
def _files_need_not_be_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: value)


@pytest.mark.usefixtures("_files_need_not_be_here")
@every_page
def test_command_lines_of_a_page_parse(page: Path) -> None:
    lines = _shell_lines(page.read_text(encoding="utf-8"))
    mistakes = [_mistake(arguments) for line in lines for arguments in _roost_commands(line)]

    assert list(filter(None, mistakes)) == []


@pytest.mark.usefixtures("_files_need_not_be_here")
@pytest.mark.parametrize("example", EXAMPLES, ids=_name)
def test_command_lines_of_an_example_parse(example: Path) -> None:
    lines = re.findall(r"^#   (roost .*)$", example.read_text(encoding="utf-8"), re.MULTILINE)

    assert list(filter(None, (_mistake(shlex.split(line)[1:]) for line in lines))) == []


@pytest.mark.parametrize(
    "wrong", ["vm lst", "vm start", "image pull", "vm stop web --fast", "vm wait --for up x"]
)
def test_a_wrong_command_line_is_seen(wrong: str) -> None:
    assert _mistake(shlex.split(wrong))


def _unknown_words(mention: str) -> str:
    """What is not there of a command line within a sentence, which may leave out arguments or name places to fill."""
    words = mention.split()[1:]
    command: click.Command = root
    context = click.Context(root, info_name="roost", obj=App())
    while words and isinstance(command, click.Group):
        if words[0].startswith("-") or _PLACE_TO_FILL.search(words[0]):
            break
        found = command.get_command(context, words[0])
        if found is None:
            return f"{mention}: there is no command {words[0]}"
        command, context = found, click.Context(found, context, info_name=words.pop(0))
    known = {word for p in command.get_params(context) for word in (*p.opts, *p.secondary_opts)}
    own = words[: words.index("--")] if "--" in words else words
    used = [word.strip("[].,").partition("=")[0] for word in own if word.strip("[").startswith("-")]
    return ", ".join(f"{mention}: there is no option {word}" for word in used if word not in known)


@every_page
def test_commands_that_a_page_mentions_exist(page: Path) -> None:
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    mentions = re.findall(r"`(roost [^`]+)`", text)

    assert list(filter(None, map(_unknown_words, mentions))) == []


def test_commands_that_the_program_mentions_exist() -> None:
    """In hints of errors, above all."""
    mentions: dict[str, str] = {}
    for module in sorted((ROOT / "src").rglob("*.py")):
        for mention in re.findall(r"`(roost [^`\n]+)`", module.read_text(encoding="utf-8")):
            mentions[re.sub(r"\{[^}]*\}", "NAME", mention)] = _name(module)

    assert mentions
    assert [f"{mentions[mention]}: {said}" for mention in mentions if (said := _unknown_words(mention))] == []


def _links(page: Path) -> list[tuple[Path, str]]:
    """The files within the project that a page leads to, each with an anchor or an empty text."""
    text = re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", page.read_text(encoding="utf-8")))
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", target)]
    parts = [target.partition("#") for target in targets]
    return [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in parts]


def _anchors(page: Path) -> set[str]:
    """What each heading is called in a link: lower case, hyphens for spaces, other punctuation dropped."""
    headings = re.findall(r"^#{1,6} (.+)$", _BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    lost = [
        f"{target}#{anchor}"
        for target, anchor in _links(page)
        if not (target.exists() and target.is_relative_to(ROOT))
        or (anchor and anchor not in _anchors(target))
    ]

    assert lost == []


@every_page
def test_files_of_the_project_that_a_page_names_exist(page: Path) -> None:
    spans = re.findall(r"`([\w.-]+(?:/[\w.-]+)+)`", _BLOCK.sub("", page.read_text(encoding="utf-8")))
    top = {"src", "tests", "scripts", "examples", "docs"}
    modules = [span for span in spans if re.fullmatch(r"[a-z_]+/[a-z_/]+\.py", span)]
    named = [ROOT / span for span in spans if span.split("/")[0] in top]
    named += [ROOT / "src" / "roost" / span for span in modules if span.split("/")[0] not in top]

    assert [_name(path) for path in named if not path.exists() and path not in _MADE_BY_TOOLS] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        todo += [target for target, _ in _links(page) if target in PAGES and target not in reached]

    assert [_name(page) for page in PAGES if page not in reached] == []


@every_page
def test_page_can_be_read_anywhere(page: Path) -> None:
    """No path of one machine, no trailing blanks, lines of prose that fit a screen."""
    text = page.read_text(encoding="utf-8")

    assert not re.search(r"/(work|home/\w+|root)/", text)
    assert [line for line in text.splitlines() if line != line.rstrip()] == []
    if GENERATED not in page.parents:
        prose = [line for line in _BLOCK.sub("", text).splitlines() if not line.lstrip().startswith("|")]
        assert [line for line in prose if len(line) > 120] == []
