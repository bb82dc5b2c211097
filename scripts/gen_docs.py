"""Write docs/reference anew from the code (`./dev docs`); with `--check` only say what is out of date.

What the pages hold is in `scripts/reference`; tests/unit/project/test_docs_current.py compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"


def differences() -> dict[Path, str | None]:
    """Files whose text is not what the code says, with the right text; None for one that should not be there."""
    from scripts.reference import PAGES  # noqa: PLC0415  only once the checkout is on the path

    wanted = {REFERENCE / name: make() for name, make in PAGES.items()}
    wrong: dict[Path, str | None] = {
        path: text
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    strangers = set(REFERENCE.glob("*")) - set(wanted)
    return wrong | dict.fromkeys(strangers)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: ./dev docs [--check]", file=sys.stderr)
        return 2
    wrong = differences()
    for path, text in sorted(wrong.items()):
        name = path.relative_to(ROOT)
        if arguments:
            print(f"{name} is out of date: run ./dev docs")
        elif text is None:
            print(f"{name} does not belong there: remove it")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"{name} is written")
    if not wrong:
        print("docs/reference is up to date")
    return 1 if arguments and wrong else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # run as a file, its own folder is on the path and not the checkout
    sys.exit(main(sys.argv[1:]))
