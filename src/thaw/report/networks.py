"""The page of several networks: reads `networks.json`, writes `report.html` and `figures/*.png` beside it."""

from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from thaw.cache.files import write_atomic, writing
from thaw.images.preprocessing import describe_size
from thaw.report.error_figures import name_dots
from thaw.report.figures import INK, MUTED, PAPER, THEME, arm_colour, arm_marker, finish, legend, new_axes, percent_tick
from thaw.report.svg import inline_svg, png
from thaw.run.metrics import METRICS
from thaw.run.networks import Networks, read_networks
from thaw.text import count, named, percent, points, seconds, signed

SIZES = {"milliseconds": "milliseconds an image at inference", "megabytes": "megabytes of weights"}
"""What the figures have scores against."""


def write_networks_report(folder: Path) -> Path:
    """Write `report.html` and `figures/*.png` from the `networks.json` in a folder; return the page's path.

    Raises StorageError where that is missing or damaged, or the folder cannot be written.
    """
    networks = read_networks(folder)
    figures = folder / "figures"
    with writing(folder):
        figures.mkdir(exist_ok=True)
    drawn = {}
    for key in SIZES:
        figure = plot_networks(networks, key).figure
        assert isinstance(figure, Figure)
        write_atomic(figures / f"{key}.png", png(figure))
        figure.set_layout_engine("none")  # the layout that was found for the PNG serves the SVG too
        label = f"Test {METRICS[networks.verdict.metric]} of each network against {SIZES[key]}."
        drawn[key] = Markup(inline_svg(figure, key, label, THEME))
    page = folder / "report.html"
    write_atomic(page, _render(networks, drawn))
    return page


def plot_networks(networks: Networks, key: str, ax: Axes | None = None) -> Axes:
    """Plot scores against `milliseconds` or `megabytes`: a colour for each network, a marker for each arm.

    The best arm of each network has its interval and the network's name; the other arms are smaller.
    """
    ax = ax or new_axes(5.2, 3.4)
    arms = list(dict.fromkeys(arm for it in networks.networks.values() for arm in it.arms))
    across, up = {}, {}
    for place, (name, network) in enumerate(networks.networks.items()):
        top = best_arm(networks, name)
        for arm, it in network.arms.items():
            x, colour, marker = getattr(it, key), arm_colour(place), arm_marker(arms.index(arm))
            size = 8 if arm == top else 5
            if arm == top:
                ax.plot((x, x), it.interval, color=colour, alpha=0.3, linewidth=5, solid_capstyle="round")
                across[_short(networks, name)], up[_short(networks, name)] = x, it.score
            ax.plot(x, it.score, marker, color=colour, markersize=size, markeredgecolor=PAPER, zorder=3)
    for place, arm in enumerate(arms):
        ax.plot([], [], arm_marker(place), color=MUTED, markersize=6, label=arm)
    ax.set_xscale("log")
    ax.set_xlim(min(across.values()) / 2.2, max(across.values()) * 2.2)
    ax.margins(y=0.12)
    if max(across.values()) / min(across.values()) < 10:
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    if networks.verdict.metric == "accuracy":
        ax.yaxis.set_major_formatter(percent_tick)
    name_dots(ax, across, up)
    ax.set_xlabel(SIZES[key], color=INK)
    finish(ax, f"test {METRICS[networks.verdict.metric]}")
    legend(ax)
    return ax


def best_arm(networks: Networks, name: str) -> str:
    """Return the best arm of a network, of equals the first."""
    arms = networks.networks[name].arms
    return max(arms, key=lambda arm: arms[arm].score)


def label(networks: Networks, name: str) -> str:
    """Return what a network is called: its backbone, or its folder where another has the same backbone."""
    backbone = networks.networks[name].backbone
    return backbone if [it.backbone for it in networks.networks.values()].count(backbone) == 1 else name


def headline(networks: Networks) -> str:
    """Say in a sentence which arm of which network to use. Names are in backticks."""
    found, (_, _, own) = networks.verdict, networks.arm(networks.recommended)
    chosen, images = _told(networks, networks.recommended), count(networks.test_images, "test image")
    if found.metric == "accuracy":
        result = f"right on {percent(own.score)} of {images}"
    else:
        result = f"{METRICS[found.metric]} {own.score:.3f} on {images}"
    if not found.arms[networks.recommended].learned:
        always = f"always answering the commonest class gives {score(networks, found.baseline)}"
        return f"No network is shown to have learned anything: {always}, and the best, {chosen}, is {result}."
    if networks.recommended != networks.best:
        shown = f"shown to lose no more than {_apart(networks, found.margin)} against {_told(networks, networks.best)}"
        return f"Use {chosen}: {result}, and {shown}, the best."
    return f"Use {chosen}: {result}; on new images expect about {score(networks, found.expected)}."


def reasons(networks: Networks) -> str:
    """Say how likely the best is the best, what the next network would lose and save, and on what that rests."""
    found, best = networks.verdict, networks.best
    of, several = len(networks.networks), networks.seeds > 1
    kind = "way of training" if several else "model"
    sure = found.arms[best].probability_best
    chance = "more than 99%" if sure > 0.99 else percent(sure, 0)
    among = f"{count(len(found.arms), kind, 'ways of training' if several else '')} of {count(of, 'network')}"
    told = [f"{_told(networks, best)} is the best of {among} with a probability of {chance}."]
    others = [f"{name}/{best_arm(networks, name)}" for name in networks.networks if not best.startswith(f"{name}/")]
    if others:
        told.append(_behind(networks, max(others, key=lambda key: found.arms[key].score)))
    if several:
        told.append(f"Mean of {networks.seeds} seeds; images and seeds both count.")
    else:
        told.append("One seed: this is about these models, not about these ways of training.")
    return " ".join(told)


def score(networks: Networks, value: float) -> str:
    """Format a score of the verdict's metric: accuracy in percent, others with three decimals."""
    return percent(value) if networks.verdict.metric == "accuracy" else f"{value:.3f}"


def _behind(networks: Networks, key: str) -> str:
    """What the best arm of another network loses against the best of all, and what each costs at inference."""
    own, (_, _, it), (_, _, top) = networks.verdict.arms[key], networks.arm(key), networks.arm(networks.best)
    low, high = own.loss_interval
    if networks.verdict.metric == "accuracy":
        ends = f"90% interval {signed(low)} to {signed(high)}"
    else:
        ends = f"90% interval {low:.3f} to {high:.3f}"
    behind = f"is {_apart(networks, own.loss)} behind ({ends})" if own.loss else "scores the same"
    return (
        f"The next network at its best, {_told(networks, key)}, {behind}; it takes {it.milliseconds:.2g} ms an image "
        f"and {it.megabytes:.3g} MB against {top.milliseconds:.2g} ms and {top.megabytes:.3g} MB."
    )


def _apart(networks: Networks, difference: float) -> str:
    return points(difference) if networks.verdict.metric == "accuracy" else f"{abs(difference):.3f}"


def _told(networks: Networks, key: str) -> str:
    name, _, arm = key.partition("/")
    return f"{named(arm)} of {named(label(networks, name))}"


def _short(networks: Networks, name: str) -> str:
    """The name of a network without its library, where that is enough."""
    shorts = [label(networks, one).rpartition("/")[2] for one in networks.networks]
    own = label(networks, name).rpartition("/")[2]
    return own if shorts.count(own) == 1 else label(networks, name)


def _prose(text: str) -> Markup:
    """Set names between backticks in bold."""
    before, *parts = str(escape(text)).split("`")
    return Markup(before + "".join(f"{'<b>' if place % 2 == 0 else '</b>'}{one}" for place, one in enumerate(parts)))


def _render(networks: Networks, figures: dict[str, Markup]) -> str:
    """The page; what is not Markup is escaped."""
    files = resources.files("thaw.report")
    read = {name: files.joinpath(name).read_text(encoding="utf-8") for name in ("theme.css", "page.css")}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files.joinpath("networks.html").read_text(encoding="utf-8"))
    return template.render(
        networks=networks,
        label=lambda name: label(networks, name),
        score=lambda value: score(networks, value),
        colour=lambda place: THEME[arm_colour(place)],
        size=describe_size,
        seconds=seconds,
        percent=percent,
        count=count,
        headline=_prose(headline(networks)),
        reasons=_prose(reasons(networks)),
        metric=METRICS[networks.verdict.metric],
        figures=figures,
        css=Markup("".join(read.values())),
    )
