"""The command line: parse, call one function, print, exit code."""

import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from thaw.errors import ThawError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="thaw-vision", prog_name="thaw")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """How much of a pretrained network should you thaw? Measure it on your own images."""


@cli.command()
@click.argument("source", required=False)
@click.option(
    "--recipe",
    metavar="NAME_OR_FILE",
    help="A built-in recipe (see `thaw recipes`) or a TOML file; `photos` where SOURCE is given, else `emoji-people`.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The folder for the results.  [default: runs/RECIPE]")
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a key of the recipe, such as train.epochs=10; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be trained, frozen and cached, and stop.")
def study(source: str | None, recipe: str | None, out: Path | None, settings: tuple[str, ...], dry_run: bool) -> None:
    """Train a backbone in several ways on the images of SOURCE, compare them, and write a report.

    SOURCE is a folder with a folder per class, a CSV or Parquet table, a Hugging Face dataset folder, or hf:NAME for
    one on the hub. Without SOURCE, the recipe says where the images are.
    """
    from thaw.recipe import load_recipe
    from thaw.study import plan_study, run_study

    resolved = load_recipe(recipe or ("photos" if source else "emoji-people"), source, settings)
    out = out or Path("runs") / resolved.name
    if dry_run:
        _print_plan(*plan_study(resolved))
        return

    found = run_study(resolved, out, shlex.join(["thaw", *sys.argv[1:]]))
    _print_results(found)
    click.echo(f"Report: {out / 'report.html'}")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Write the report of a finished RUN folder anew."""
    from thaw.report.page import write_report

    click.echo(f"Report: {write_report(run)}")


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option("--format", "form", type=click.Choice(["table", "csv", "jsonl", "parquet"]), help="What to write.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write; its ending says the format too.")
@click.option("--top", type=click.IntRange(1), metavar="K", help="Write the K likeliest classes of each image only.")
@click.option("--image", "column", default="image", show_default=True, help="The column of a table with the images.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
def predict(
    bundle: Path,
    images: tuple[str, ...],
    form: str | None,
    out: Path | None,
    top: int | None,
    column: str,
    device: str,
    precision: str,
) -> None:
    """Say the class of each of IMAGES, and how sure that is, with the trained model in the folder BUNDLE.

    IMAGES are files, folders, patterns such as '**/*.jpg', CSV or Parquet tables, or - for paths on standard input,
    one a line. BUNDLE is RUN/models/ARM. An image that cannot be read is noted and passed over.
    """
    from thaw.bundle.inputs import find_pictures
    from thaw.bundle.load import load
    from thaw.bundle.output import format_of, write_predictions

    form = format_of(form, out)
    loaded = load(bundle, device, precision)
    pictures, count = find_pictures(images, column, sys.stdin)
    try:
        write_predictions(loaded, pictures, count, form, out, top)
    except BrokenPipeError:  # whoever reads the output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("name", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="Show it to nobody else.")
def push(bundle: Path, name: str, private: bool) -> None:
    """Upload the trained model in the folder BUNDLE to the Hugging Face hub, with its model card."""
    from thaw.bundle.push import push

    click.echo(push(bundle, name, private))


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["onnx", "torch", "int8"]), required=True, help="The kind of file.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write.  [default: one in the bundle]")
@click.option("--check", type=click.Path(path_type=Path), help="A folder of pictures to check the export on.")
def export(bundle: Path, to: str, out: Path | None, check: Path | None) -> None:
    """Write the model in BUNDLE, such as RUN/models/ARM, as one file from raw pictures to probabilities.

    Resizing, normalisation and temperature are inside. The file is checked against the bundle on real pictures before
    it is kept.
    """
    from thaw.bundle.export import export_bundle

    exported = export_bundle(bundle, to, out, check)
    checked, size = exported.metadata["check"], exported.path.stat().st_size
    click.echo(
        f"{exported.path} ({_size(size)}): {checked['same_class']} of {checked['pictures']} pictures get the bundle's "
        f"class, probabilities differ by at most {checked['largest_difference']:.1e}"
    )
    if accuracy := exported.metadata.get("accuracy"):
        click.echo(
            f"Accuracy on {accuracy['images']:,} test pictures: {accuracy['int8']:.4f}, "
            f"of the bundle itself {accuracy['bundle']:.4f}"
        )


@cli.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the built-in recipes, or print the recipe NAME, to copy and change."""
    from thaw.recipe import built_in_recipes, recipe_text

    if name:
        click.echo(recipe_text(name), nl=False)
        return
    for known in built_in_recipes():
        first = recipe_text(known).splitlines()[0].removeprefix("# ")
        click.echo(f"{known:<20}{first}")


@cli.command()
@click.argument("action", type=click.Choice(["list", "clear"]), default="list")
def cache(action: str) -> None:
    """List what is kept of work that cannot change, or clear it."""
    from datetime import datetime

    from thaw.store import BUDGET, cache_folder, clear, entries

    if action == "clear":
        click.echo(f"Freed {_size(clear())} in {cache_folder()}")
        return
    listed = entries()
    table = Table("kind", "key", "size", "last used", box=None)
    for entry in listed:
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
        table.add_row(entry.kind, entry.key, _size(entry.bytes), used)
    if listed:
        Console(highlight=False).print(table)
    total = _size(sum(entry.bytes for entry in listed))
    click.echo(f"{total} of {_size(BUDGET)} in {cache_folder()}; THAW_CACHE names another folder")


def main() -> None:
    """Run the command line; never a traceback for what a person can put right."""
    debug = "--debug" in sys.argv
    caught: BaseException
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = cli.main(arguments or ["--help"], standalone_mode=False)
        sys.exit(code or 0)
    except ThawError as error:
        caught, message, code = error, str(error), 2
    except click.ClickException as error:
        caught, message, code = error, f"{error.format_message().rstrip('.')}; thaw --help lists what there is.", 2
    except (KeyboardInterrupt, click.Abort) as error:
        caught, message, code = error, "stopped; what the cache holds is kept for the same command.", 130
    except Exception as error:  # the one place where anything unexpected ends
        caught, code = error, 1
        message = f"unexpected {type(error).__name__}: {error}; run it with --debug and report the traceback."
    if debug:
        traceback.print_exception(caught)
    click.echo(f"thaw: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _print_results(found: dict[str, Any]) -> None:
    title = f"{found['recipe']}: {found['splits']['test']:,} test images"
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for name in ("arm", "accuracy", "precision", "recall", "F1", "rate", "trained", "seconds"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for arm, result in found["arms"].items():
        test, spent = result["test"], result["seconds"]
        scores = [f"{test[name]:.4f}" for name in ("accuracy", "precision", "recall", "f1")]
        row = [arm, *scores, f"{result['learning_rate']:g}", f"{result['parameters']['trainable']:,}"]
        table.add_row(*row, f"{spent['total']:.1f}", style="bold" if arm == found["best"] else "")
    Console(highlight=False).print(table)
    click.echo(f"Recommended: {found['recommended']}, {found['rule']}")


def _print_plan(plan: dict[str, dict[str, Any]], images: int) -> None:
    console = Console(highlight=False)
    table = Table("module", "kind", "parameters", *plan, box=None, header_style="bold")
    fates = {arm: {row["module"]: row["trained"] for row in notes["modules"]} for arm, notes in plan.items()}
    for row in next(iter(plan.values()))["modules"]:
        told = ["[bold]trained[/]" if fates[arm].get(row["module"]) else "frozen" for arm in plan]
        table.add_row(row["module"], row["kind"], f"{row['parameters']:,}", *told)
    console.print(table)
    for arm, notes in plan.items():
        parameters, frontier = notes["parameters"], notes["frontier"]
        lines = [f"{arm}: trains {parameters['trainable']:,} of {parameters['total']:,} parameters"]
        if frontier["nodes"]:
            each = frontier["bytes_per_image"]
            lines.append(f"computed once per image, up to {', '.join(frontier['nodes'])}")
            lines.append(f"kept: {_size(each)} an image, {_size(each * images)} for all {images:,}")
            lines.append(f"saves {frontier['share_saved']:.1%} of the arithmetic of each pass")
        else:
            lines.append(f"runs whole: {frontier['reason'] or 'nothing is frozen'}")
        console.print("\n  ".join(lines), markup=False, soft_wrap=True)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
