"""Tables that the commands print: results, audit, plan, cache."""

import os
import shlex
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from thaw.cache.budget import FRACTION, LIMIT, cache_folder, cache_limit, entries
from thaw.text import (
    SPACE,
    between,
    count,
    duration,
    escape_line,
    escape_terminal,
    fitted,
    format_bytes,
    parameters,
    short,
)

if TYPE_CHECKING:
    from thaw.audit.results import Audit
    from thaw.estimate import Estimate
    from thaw.plan import Plan
    from thaw.recipe import Recipe
    from thaw.run.metrics import Metrics, TrialMetrics
    from thaw.run.networks import Networks
    from thaw.run.tested import Tested
    from thaw.scout.probes import Scouted

SCORES = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "f1": "F1", "auroc": "AUROC"}
"""The scores that the table of results shows, and their headings; `metrics.json` and the report have the others."""
MOST_CLASSES = 30
"""Classes that a table on the terminal has at most."""
SHORT_KEY = 8
"""The first characters of a key, which tell entries apart."""


def print_results(metrics: "Metrics") -> None:
    """Print which arm to use, and the scores of each arm of a finished study and of rules without a network."""
    from thaw.report.verdict import headline

    seeds = max(len(it.trials) for it in metrics.arms.values())
    means = f", mean of {seeds} seeds; learning rate and time of the first" if seeds > 1 else ""
    click.echo(escape_terminal(f"{headline(metrics).replace(SPACE, ' ')}\n"))
    title = Text(escape_terminal(f"{metrics.recipe}: {metrics.splits['test']:,} test images{means}"))
    table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("arm", min_width=len("by frequency"), no_wrap=True)
    for name in (*SCORES.values(), "learning rate", "trained", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm, it in metrics.arms.items():
        row = [arm, *(f"{getattr(it.over_seeds, name).mean:.4f}" for name in SCORES), _setting(it)]
        row += [parameters(it.parameters.trainable).replace(SPACE, " "), duration(it.seconds.total)]
        table.add_row(*row, style="bold" if arm == metrics.best else "")
    rules = metrics.baselines
    always = f"always {escape_terminal(short(rules.commonest_class, 18))}"
    for rule, of_rule in ((always, rules.commonest), ("by frequency", rules.frequencies)):
        table.add_row(Text(rule), *(f"{getattr(of_rule, name):.4f}" for name in SCORES), "", "", "", style="dim")
    Console(highlight=False).print(table)
    print_sets(metrics)


def print_next(metrics: "Metrics", run: Path) -> None:
    """Print where the report of the run in the folder `run` is, how long the study took, and what to do next."""
    model = run / "models" / metrics.recommended
    lines = {
        f"thaw serve {shlex.quote(str(run))}": "try the models, read the report",
        f"thaw predict {shlex.quote(str(model))} FOLDER": "classify images",
    }
    width = max(map(len, lines))
    click.echo(f"\nTook {duration(metrics.seconds.total)}. Next:")
    for line, why in lines.items():
        click.echo(escape_terminal(f"  {line:<{width}}  {why}"))
    click.echo(escape_terminal(f"Report: {run / 'report.html'}"))


def print_sets(metrics: "Metrics") -> None:
    """Print the scores of each arm on each further test set, where there are any."""
    from thaw.run.metrics import METRICS

    if not metrics.shifted:
        return
    title = Text(escape_terminal(f"{METRICS[metrics.verdict.metric]} on other images, and the change"))
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    table.add_column("arm")
    table.add_column("test", justify="right")
    for name, it in metrics.shifted.items():
        table.add_column(Text(f"{name} ({it.images:,})"), justify="right")
    for arm in metrics.arms:
        own = [it.arms[arm] for it in metrics.shifted.values()]
        cells = [f"{one.value:.4f} {one.change:+.3f}" for one in own if one.change is not None]
        table.add_row(arm, f"{own[0].own:.4f}", *cells, style="bold" if arm == metrics.best else "")
    Console(highlight=False).print(table)


def print_left_out(column: str, studies: dict[str, "Metrics"]) -> None:
    """Print the verdict's metric of each arm on the images of each value that was left out, the mean and the least."""
    from thaw.run.metrics import METRICS

    first = next(iter(studies.values()))
    metric = first.verdict.metric
    title = Text(escape_terminal(f"{METRICS[metric]} on each {column}, trained on the others"))
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    table.add_column("arm")
    for value, of in studies.items():
        table.add_column(Text(escape_terminal(f"{short(value, 18)} ({of.splits['test']:,})")), justify="right")
    table.add_column("mean", justify="right")
    table.add_column("least", justify="right")
    for arm in first.arms:
        sign = -1 if metric == "log_loss" else 1
        scores = [sign * getattr(of.arms[arm].over_seeds, metric).mean for of in studies.values()]
        cells = [*scores, sum(scores) / len(scores), min(scores)]
        table.add_row(arm, *(f"{score:.4f}" for score in cells))
    Console(highlight=False).print(table)


def print_networks(networks: "Networks", folder: Path) -> None:
    """Print which arm of which network to use, a table of all of them, and where the reports are."""
    from thaw.report.networks import headline, label, score
    from thaw.run.metrics import METRICS

    click.echo(escape_terminal(f"{headline(networks).replace(SPACE, ' ')}\n"))
    title = Text(escape_terminal(f"{networks.recipe}: {networks.test_images:,} test images"))
    table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("network, arm", no_wrap=True)
    for name in (METRICS[networks.verdict.metric], "95%", "time", "ms", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, network in networks.networks.items():
        table.add_row(label(networks, name))
        for arm, it in network.arms.items():
            row = [f"  {arm}", score(networks, it.score), between(it.interval), duration(it.seconds)]
            row += [f"{it.milliseconds:.2f}", f"{it.megabytes:.1f}"]
            table.add_row(*row, style="bold" if f"{name}/{arm}" == networks.recommended else "")
    Console(highlight=False).print(table)
    click.echo("ms: milliseconds an image at inference on this machine; time: of search and training")
    click.echo(escape_terminal(f"Report: {folder / 'report.html'}"))


def print_tested(tested: "Tested") -> None:
    """Print the scores of models on new images, and how that compares with the study's own test set."""
    record, results = tested.record, tested.record.results
    title = Text(escape_terminal(f"{results.origin}: {results.images:,} images"))
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    table.add_column("arm", min_width=len("by frequency"))
    for name in (*SCORES.values(), "own test", "change, 95%"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm, it in results.arms.items():
        cells = [f"{getattr(it.scores, name):.4f}" for name in SCORES]
        cells.append("" if it.own is None else f"{it.own:.4f}")
        cells.append(f"{it.change_interval[0]:+.3f} to {it.change_interval[1]:+.3f}" if it.change_interval else "")
        table.add_row(escape_terminal(arm), *cells)
    if rules := results.baselines:
        always = f"always {escape_terminal(short(rules.commonest_class, 18))}"
        for rule, of_rule in ((always, rules.commonest), ("by frequency", rules.frequencies)):
            cells = [f"{getattr(of_rule, name):.4f}" for name in SCORES]
            table.add_row(Text(rule), *cells, "", "", style="dim")
    Console(highlight=False).print(table)
    if len(record.classes) <= MOST_CLASSES:
        _print_classes(tested)
    click.echo(escape_terminal(tested.sentence()))


def _print_classes(tested: "Tested") -> None:
    """Print precision, recall and F1 of each class, of the first arm."""
    arm, it = next(iter(tested.record.results.arms.items()))
    table = Table("class", box=None, header_style="bold", title=Text(escape_terminal(arm)), title_justify="left")
    for name in ("images", "precision", "recall", "95% interval", "F1"):
        table.add_column(name, justify="right")
    for name, own in zip(tested.record.classes, it.classes, strict=True):
        scores = (f"{own.precision:.4f}", f"{own.recall:.4f}", between(own.recall_interval), f"{own.f1:.4f}")
        table.add_row(Text(escape_terminal(short(name, 32))), f"{own.support:,}", *scores)
    Console(highlight=False).print(table)


def _setting(trial: "TrialMetrics") -> str:
    """The learning rate of a trial, or what was chosen where its head is fitted."""
    return fitted(trial.fit.kind, trial.fit.value) if trial.fit else f"{trial.learning_rate:g}"


def print_scouted(scouted: "Scouted") -> None:
    """Print where networks could end and what a head there reaches, then a sentence on what is worth a study."""
    from thaw.scout.recipe import caution, headline, shown

    table = Table(box=None, header_style="bold")
    table.add_column("network, cut after", no_wrap=True)
    for name in ("pooled to", "accuracy", "95%", "ms", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for network in scouted.networks:
        table.add_row(network.backbone)
        for probe in shown(scouted, network):
            row = [f"  {probe.at or 'whole'}", f"{probe.grid} x {probe.grid}" if probe.at else ""]
            row += [f"{probe.accuracy:.3f}", between(probe.interval)]
            row += [f"{probe.milliseconds:.2f}", f"{4 * probe.parameters / 1e6:.1f}"]
            table.add_row(*row, style="bold" if probe is scouted.chosen[1] else "")
    Console(highlight=False).print(table)
    if scouted.missing:
        click.echo(f"Not tried, since their weights are not on this machine: {', '.join(scouted.missing)}.")
    click.echo(f"{headline(scouted)}\n{caution(scouted)}")


def print_audit(audit: "Audit") -> None:
    """Print the counts of an audit and one line per finding."""
    console = Console(highlight=False)
    splits = ", ".join(f"{count:,} {split}" for split, count in audit.splits.items())
    lines = [f"{audit.images:,} images: {splits}"]
    lines.append(", ".join(f"{count:,} {name!r}" for name, count in audit.classes.items()))
    if audit.sizes:
        sides = {name: f"{width} x {height}" for name, (width, height) in audit.sizes}
        lines.append("pixels: " + ", ".join(f"{size} {name}" for name, size in sides.items()))
    lines += [f"{one.severity}: {one.what}" for one in audit.findings] or ["no issues found"]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def print_plan(plan: "Plan", images: int, estimate: "Estimate", recipe: "Recipe", verbose: bool) -> None:
    """Print what a study would do: how long it takes, its arms, and what is computed once for each of the `images`;
    `verbose` prints which modules each arm trains too."""
    console = Console(highlight=False)
    trials, seeds = len(plan.trials), len(recipe.train.seeds)
    longest = max(trial.spec.training.epochs for trial in plan.trials)
    work = f"{count(trials, 'trial')} of {count(longest, 'epoch')}"
    work += f" ({count(len(plan.networks), 'arm')}, {count(seeds, 'seed')})"
    lines = [f"{recipe.name}: {images:,} images, {recipe.model.backbone}, {work}", estimate.told()]
    rows, whole = images + plan.views, f"all {images:,}"
    if plan.views:
        whole += f" and {plan.views:,} views of them"
        lines.append(
            f"augmentation: {plan.views:,} views besides the {images:,} images, drawn once for all arms, learning "
            f"rates and seeds; {format_bytes(plan.view_bytes)} of pixels"
        )
    shares = sorted({trial.fraction for trial in plan.trials} - {1.0})
    if shares:
        fractions = ", ".join(f"{share:g}" for share in shares)
        lines.append(f"labels: each arm and seed also on {fractions} of the training images")
    if plan.repeated:
        lines.append(
            f"repeats: each arm also on {count(recipe.data.repeats - 1, 'other draw')} of the split, one seed each "
            f"({count(len(plan.repeated), 'trial')})"
        )
    for arm, facts in plan.networks.items():
        weights, frontier = facts.parameters, facts.frontier
        lines.append(f"{arm}: trains {weights.trainable:,} of {weights.total:,} parameters")
        if thawed := plan.thawed.get(arm):
            lines.append(f"  thaws {thawed.arithmetic:.1%} of the arithmetic, from {thawed.first} on")
        if frontier.nodes:
            each = frontier.bytes_per_image
            lines.append(f"  computed once per image, up to {', '.join(frontier.nodes)}")
            lines.append(f"  cached: {format_bytes(each)} per image, {format_bytes(each * rows)} for {whole}")
            lines.append(f"  saves {frontier.fraction_saved:.1%} of the arithmetic of each pass")
        else:
            lines.append(f"  runs whole: {frontier.reason or 'nothing is frozen'}")
    for line in lines:
        console.print(escape_terminal(line), markup=False, soft_wrap=True)
    if not verbose:
        modules = len(next(iter(plan.networks.values())).modules)
        console.print(f"--verbose lists the {modules:,} modules with parameters, trained or frozen", style="dim")
        return
    table = Table(Column("module", no_wrap=True), "kind", "parameters", *plan.networks, box=None, header_style="bold")
    trained = {arm: {row.module for row in facts.modules if row.trained} for arm, facts in plan.networks.items()}
    there = {arm: {row.module for row in facts.modules} for arm, facts in plan.networks.items()}
    known = {(row.module, row.kind): row for facts in plan.networks.values() for row in facts.modules}
    for row in known.values():
        told = [
            "[bold]trained[/]" if row.module in trained[arm] else "frozen" if row.module in there[arm] else "none"
            for arm in plan.networks
        ]
        table.add_row(row.module, row.kind, f"{row.parameters:,}", *told)
    console.print(table)


def print_cache() -> None:
    """Print the entries of the cache, below the source and network of the study that made them, and how full it is."""
    listed = entries()
    owners = dict.fromkeys(tuple(entry.made_for.values()) for entry in listed)
    for owner in owners:
        click.echo(escape_line(", ".join(owner)) if owner else "of no study that is known")
        for entry in (entry for entry in listed if tuple(entry.made_for.values()) == owner):
            used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
            unfinished = "" if entry.finished else ", unfinished"
            size = format_bytes(entry.bytes)
            click.echo(f"  {entry.kind:<16} {entry.key[:SHORT_KEY]:<8} {size:>8}  last used {used}{unfinished}")
    total = format_bytes(sum(entry.bytes for entry in listed))
    click.echo(
        f"{total} of {format_bytes(cache_limit())} used in {cache_folder()}; set THAW_CACHE to use another folder"
    )
    disk = f"{FRACTION:.0%} of what the cache holds and its disk has free; set {LIMIT} to another, such as 50GB"
    click.echo(f"The limit is {LIMIT if os.environ.get(LIMIT, '').strip() else disk}")
