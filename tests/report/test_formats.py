"""Numbers and names in words, and escaped for where they are written."""

import pytest

from thaw import text as formats


@pytest.mark.parametrize(
    ("write", "value", "written"),
    [
        (formats.percent, 0.918, "91.8%"),
        (formats.percent, 1.0, "100.0%"),
        (formats.points, -0.025, "2.5 points"),
        (formats.points, 0.01, "1.0 point"),
        (formats.points, 0.755 - 0.7375, "1.8 points"),
        (formats.points, 7 / 400, "1.8 points"),
        (formats.about, 26154, "27,000"),
        (formats.about, 9, "9"),
        (formats.about, 783, "790"),
        (formats.signed, 0.0251, "2.5"),
        (formats.signed, -0.025, "−2.5"),
        (formats.signed, -0.0001, "0.0"),
        (formats.probability, 0.01234, "0.012"),
        (formats.probability, 1.0, "1"),
        (formats.probability, 3e-9, "< 0.0001"),
        (formats.between, [0.93304, 0.9523], "0.933–0.952"),
        (formats.rate, 1e-05, "1e-5"),
        (formats.rate, 0.0003, "3e-4"),
        (formats.rate, 0.00025, "2.5e-4"),
        (formats.rate, 1.0, "1e0"),
        (formats.count, 57012034, "57,012,034"),
        (formats.parameters, 8194, "8,194"),
        (formats.parameters, 57012034, "57.0 M"),
        (formats.parameters, 16_000, "16.0 k"),
        (formats.parameters, 999_960, "1.0 M"),
        (formats.seconds, 0.123, "0.12 s"),
        (formats.seconds, 0.999, "1.0 s"),
        (formats.seconds, 8.14, "8.1 s"),
        (formats.seconds, 42.4, "42 s"),
        (formats.seconds, 59.7, "1 min"),
        (formats.seconds, 200, "3 min 20 s"),
        (formats.seconds, 3599.9, "1 h"),
        (formats.seconds, 3900, "1 h 5 min"),
        (formats.format_bytes, 36864, "36 KiB"),
        (formats.format_bytes, 512, "512 bytes"),
        (formats.format_bytes, 1_500_000, "1.4 MiB"),
        (formats.day, "2026-03-05T10:11:12+00:00", "5 March 2026"),
        (formats.short, "a\nb\x00c\u202ed", "a b c d"),
        (formats.short, "x" * 50, "x" * 39 + "…"),
        (formats.short, "👩\u200d🔬", "👩\u200d🔬"),
        (formats.listed, ["a"], "a"),
        (formats.listed, ["a", "b", "c"], "a, b and c"),
        (formats.score, [0.943], "0.9430"),
        (formats.score, [0.94, 0.95], "0.9450"),
        (formats.spread, [0.94, 0.95], "± 0.0071"),
    ],
)
def test_written(write, value, written):
    assert write(value).replace(formats.SPACE, " ") == written


def test_count_takes_the_plural():
    assert [formats.count(number, "image") for number in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert formats.count(2, "class has", "classes have") == "2 classes have"


@pytest.mark.parametrize(
    ("escape", "text", "escaped"),
    [
        (formats.escape_terminal, "a\x1b[2J\n\tb", "a\\x1b[2J\n\tb"),
        (formats.escape_terminal, "👩\u200d🔬", "👩\u200d🔬"),
        (formats.escape_line, "a\x1b[2J\n\tb", "a\\x1b[2J\\n\\tb"),
        (formats.escape_markdown, "a|b\n<c> [d](e)", r"a\|b \<c\> \[d\](e)"),
        (formats.escape_csv, "=cmd()", "'=cmd()"),
        (formats.escape_csv, "-2.5", "-2.5"),
        (formats.escape_csv, "-2+cmd()", "'-2+cmd()"),
        (formats.escape_bytes, "caf\udce9 ☕", "caf\\xe9 ☕"),
    ],
)
def test_escaped(escape, text, escaped):
    assert escape(text) == escaped
