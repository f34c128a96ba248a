"""Numbers and names in words: how they are formatted, and escaped for where they are written."""

import math
import os
import re
import statistics
from collections.abc import Sequence
from datetime import datetime

SPACE = "\u00a0"
"""Between a number and its unit, where a line must not break."""


def percent(fraction: float, decimals: int = 1) -> str:
    """Format a fraction as a percentage: 0.918 is `91.8%`."""
    return f"{100 * fraction:.{decimals}f}%"


def points(difference: float) -> str:
    """Format a difference of two fractions without its sign: 0.025 is `2.5 points`."""
    number = f"{_hundredths(abs(difference)):.1f}"
    return f"{number} point" if number == "1.0" else f"{number} points"


def signed(difference: float) -> str:
    """Format a difference of two fractions in points, with its sign where it is negative: -0.025 is `−2.5`."""
    number = f"{_hundredths(difference):.1f}"
    return "0.0" if number == "-0.0" else number.replace("-", "−")


def _hundredths(difference: float) -> float:
    """Return points without the noise of subtraction: 0.755 - 0.7375 and 7 / 400 round alike."""
    return round(100 * difference, 9)


def probability(p: float) -> str:
    """Format the p-value of a test with two significant figures: `0.012`, `< 0.0001`."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def between(interval: Sequence[float]) -> str:
    """Format the interval of a score: `0.933–0.952`."""
    return f"{interval[0]:.3f}–{interval[1]:.3f}"


def within(interval: Sequence[float]) -> str:
    """Format an interval of fractions in percent: `89.1–93.4%`."""
    return f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}%"


def rate(learning_rate: float) -> str:
    """Format a learning rate as recipes write it: 0.0003 is `3e-4`."""
    mantissa, exponent = f"{learning_rate:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def fitted(kind: str, value: float) -> str:
    """Say what was chosen for a fitted head: `penalty 0.32`, `k = 20`, `scale 64`."""
    return {
        "linear": f"penalty {value:.2g}",
        "knn": f"k = {value:.0f}",
        "prototype": f"scale {value:g}",
    }[kind]


def count(number: float, noun: str = "", plural: str = "") -> str:
    """Format a count with its noun: 1 `image` is `1 image`, 2000 are `2,000 images`; `plural` need only be given where
    it is not the noun with an s."""
    whole = f"{round(number):,}"
    if not noun:
        return whole
    return f"{whole} {noun if whole == '1' else plural or f'{noun}s'}"


def about(number: int, noun: str = "") -> str:
    """Format a rough count, rounded up to two significant figures: 26154 is `27,000`."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return count(-(-number // unit) * unit, noun)


def parameters(number: int) -> str:
    """Format a number of parameters: 57012034 is `57.0 M`; numbers of up to four digits are exact."""
    if number < 10_000:
        return f"{number:,}"
    # 999,950 is where one decimal of thousands would round to 1000.0 k
    return f"{number / 1e3:.1f}{SPACE}k" if number < 999_950 else f"{number / 1e6:.1f}{SPACE}M"


def seconds(duration: float) -> str:
    """Format a duration: `0.42 s`, `8.1 s`, `42 s`, `3 min 20 s`, `1 h 5 min`."""
    if duration < 59.5:
        decimals = 2 if duration < 0.995 else 1 if duration < 9.95 else 0
        return f"{duration:.{decimals}f}{SPACE}s"
    if duration < 3599.5:
        (large, small), units = divmod(round(duration), 60), ("min", "s")
    else:
        (large, small), units = divmod(round(duration / 60), 60), ("h", "min")
    return f"{large}{SPACE}{units[0]}" + (f" {small}{SPACE}{units[1]}" if small else "")


def duration(spent: float) -> str:
    """Format a duration as `seconds` does, with spaces that terminals and logs have."""
    return seconds(spent).replace(SPACE, " ")


def time_left(left: float) -> str:
    """Format a duration that is an estimate, to whole seconds: `8 s`, `1 min 40 s`."""
    return f"{round(left)} s" if left < 59.5 else duration(left)


def format_bytes(amount: float) -> str:
    """Format a number of bytes: 36864 is `36 KiB`."""
    power = min(int(math.log2(amount) // 10), 3) if amount >= 1 else 0
    value = amount / 1024**power
    number = f"{value:.{1 if power and value < 10 else 0}f}".removesuffix(".0")
    unit = ("byte" if number == "1" else "bytes", "KiB", "MiB", "GiB")[power]
    return f"{number} {unit}"


def day(iso: str) -> str:
    """Format the day of an ISO 8601 date: `5 March 2026`."""
    date = datetime.fromisoformat(iso)
    return f"{date.day} {date:%B %Y}"


def short(name: str, limit: int = 40) -> str:
    """Shorten a name to one line of `limit` characters: what is not printable becomes a space, the rest an ellipsis."""
    # the joiner holds an emoji of several characters together
    line = "".join(letter if letter.isprintable() or letter == "\u200d" else " " for letter in name)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def listed(items: Sequence[str], conjunction: str = "and") -> str:
    """Join a list as prose does: `a`, `a and b`, `a, b and c`."""
    return f" {conjunction} ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def named(arm: str) -> str:
    """Put the name of an arm between backticks: the page sets it in bold."""
    return f"`{arm}`"


def score(values: Sequence[float]) -> str:
    """Format a score as papers write it, or its mean over several seeds: `0.9430`."""
    return f"{statistics.fmean(values):.4f}"


def spread(values: Sequence[float]) -> str:
    """Format the sample standard deviation of a score over several seeds: `± 0.0012`."""
    return f"±{SPACE}{statistics.stdev(values):.4f}"


def escape_terminal(text: str) -> str:
    """Escape what a terminal would obey instead of show: control characters, and those that change the direction of
    writing. Names of classes and files, and recipes, may hold any."""
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or character in "\n\t\u00a0\u200c\u200d":  # the last two join and part letters
        return character
    return character.encode("unicode_escape").decode()


def escape_line(text: str) -> str:
    """Escape like `escape_terminal`, line breaks and tabs too: the text stays on one line of a table or a comment."""
    return escape_terminal(text).replace("\n", "\\n").replace("\t", "\\t")


def escape_markdown(text: str) -> str:
    """Escape what means something to Markdown or HTML; the text becomes one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def escape_csv(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would take for a formula (OWASP, CSV injection)."""
    number = re.fullmatch(r"[+-]?\d+(\.\d+)?", text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) and not number else text


def escape_bytes(name: str) -> str:
    """Escape the bytes of a file name that are not UTF-8 as `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
