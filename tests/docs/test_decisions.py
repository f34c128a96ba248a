"""The index of decisions lists every note, with the date and status that the note gives itself."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
NOTE = re.compile(r"# (\d{4}): (.+)\n\n(\d{4}-\d\d-\d\d) · ((?:accepted|rejected: .+|superseded by \[\d{4}]\(.+\)))\n")


def test_the_index_lists_every_note() -> None:
    rows = []
    for path in sorted(FOLDER.glob("0*.md")):
        match = NOTE.match(path.read_text(encoding="utf-8"))
        assert match, f"{path.name} does not begin with number, title, date and status"
        number, title, date, status = match.groups()
        assert path.name.startswith(f"{number}-")
        rows.append(f"| [{number}]({path.name}) | {date} | {status} | {title} |")
    assert [row[3:7] for row in rows] == [f"{number:04d}" for number in range(1, len(rows) + 1)]
    index = (FOLDER / "index.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in index if line.startswith("| [")] == rows
