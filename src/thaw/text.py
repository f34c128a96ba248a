"""Numbers and names as the report writes them."""

import math
import statistics
from collections.abc import Sequence
from datetime import datetime

SPACE = "\u00a0"
"""Between a number and its unit, where a line must not break."""


def percent(share: float) -> str:
    """A share of one as a percentage: 0.918 is `91.8%`."""
    return f"{100 * share:.1f}%"


def points(difference: float) -> str:
    """A difference of two shares, without its sign: 0.025 is `2.5 points`."""
    number = f"{_hundredths(abs(difference)):.1f}"
    return f"{number} point" if number == "1.0" else f"{number} points"


def signed(difference: float) -> str:
    """A difference of two shares in points, with a sign where it is negative: -0.025 is `−2.5`."""
    number = f"{_hundredths(difference):.1f}"
    return "0.0" if number == "-0.0" else number.replace("-", "−")


def _hundredths(difference: float) -> float:
    """In points, without the noise of subtraction: 0.755 - 0.7375 and 7 / 400 are to be rounded alike."""
    return round(100 * difference, 9)


def probability(p: float) -> str:
    """The p of a test, two figures of it: `0.012`, `< 0.0001`."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def between(interval: Sequence[float]) -> str:
    """The interval of a score: `0.933–0.952`."""
    return f"{interval[0]:.3f}–{interval[1]:.3f}"


def within(interval: Sequence[float]) -> str:
    """An interval of shares of one, in percent: `89.1–93.4%`."""
    return f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}%"


def rate(learning_rate: float) -> str:
    """A learning rate as recipes write it: 0.0003 is `3e-4`."""
    mantissa, exponent = f"{learning_rate:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def count(number: float, noun: str = "") -> str:
    """A count with its noun: 1 `image` is `1 image`, 2000 are `2,000 images`."""
    whole = f"{round(number):,}"
    if not noun:
        return whole
    return f"{whole} {noun}" if whole == "1" else f"{whole} {noun}s"


def about(number: int, noun: str = "") -> str:
    """A count that is known roughly, rounded up to two figures: 26154 is `27,000`."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return count(-(-number // unit) * unit, noun)


def parameters(number: int) -> str:
    """A number of parameters: 57012034 is `57.0 M`; four digits and fewer are exact."""
    if number < 10_000:
        return f"{number:,}"
    # 999,950 is where one decimal of thousands would round to 1000.0 k
    return f"{number / 1e3:.1f}{SPACE}k" if number < 999_950 else f"{number / 1e6:.1f}{SPACE}M"


def seconds(duration: float) -> str:
    """A duration: `0.42 s`, `8.1 s`, `42 s`, `3 min 20 s`, `1 h 5 min`."""
    if duration < 59.5:
        decimals = 2 if duration < 0.995 else 1 if duration < 9.95 else 0
        return f"{duration:.{decimals}f}{SPACE}s"
    if duration < 3599.5:
        (large, small), units = divmod(round(duration), 60), ("min", "s")
    else:
        (large, small), units = divmod(round(duration / 60), 60), ("h", "min")
    return f"{large}{SPACE}{units[0]}" + (f" {small}{SPACE}{units[1]}" if small else "")


def size(amount: float) -> str:
    """A number of bytes: 36864 is `36 KiB`."""
    power = min(int(math.log2(amount) // 10), 3) if amount >= 1 else 0
    value = amount / 1024**power
    decimals = 1 if power and value < 10 else 0
    return f"{value:.{decimals}f}".removesuffix(".0") + f"{SPACE}{('bytes', 'KiB', 'MiB', 'GiB')[power]}"


def day(iso: str) -> str:
    """The day of an ISO 8601 date: `5 March 2026`."""
    date = datetime.fromisoformat(iso)
    return f"{date.day} {date:%B %Y}"


def short(name: str, limit: int = 40) -> str:
    """A name on one line: what does not print becomes a space, and what passes `limit` an ellipsis."""
    # the joiner holds an emoji of several characters together
    line = "".join(letter if letter.isprintable() or letter == "\u200d" else " " for letter in name)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def listed(items: Sequence[str], conjunction: str = "and") -> str:
    """A list in prose: `a`, `a and b`, `a, b and c`."""
    return f" {conjunction} ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def named(arm: str) -> str:
    """The name of an arm in prose, between backticks: the page sets it in bold."""
    return f"`{arm}`"


def score(values: Sequence[float]) -> str:
    """A score, as papers write it, or its mean over several seeds: `0.9430`."""
    return f"{statistics.fmean(values):.4f}"


def spread(values: Sequence[float]) -> str:
    """The sample standard deviation of a score over several seeds: `± 0.0012`."""
    return f"±{SPACE}{statistics.stdev(values):.4f}"
