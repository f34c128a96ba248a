"""The command line: parse, call one function, print, exit code."""

import io
import json
import os
import re
import shlex
import sys
import traceback
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from thaw.cache.budget import CACHE_BYTES, cache_folder, clear, entries
from thaw.cache.files import is_full, no_room, size
from thaw.cli.completion import SHELLS, complete_file, complete_recipe, complete_setting, script
from thaw.cli.interrupt import ends_promptly
from thaw.cli.tables import print_audit, print_plan, print_results
from thaw.errors import StorageError, ThawError, first_line, out_of_memory
from thaw.progress import plain

of_recipe = click.option(
    "--recipe",
    metavar="NAME_OR_FILE",
    shell_complete=complete_recipe,
    help="A built-in recipe (see `thaw recipes`) or a TOML file; `photos` where SOURCE is given, else `emoji-people`.",
)
of_settings = click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    shell_complete=complete_setting,
    help="Change a key of the recipe, such as train.epochs=10; KEY= takes it out. May be repeated.",
)


class InOrder(click.Group):
    """Lists its commands in the order in which they stand here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="thaw-vision", prog_name="thaw")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """How much of a pretrained network should you thaw? Measure it on your own images.

    \b
    thaw study                                the embedded example, without a network
    thaw study pictures --out runs/mine       your own: a folder with a folder per class
    thaw predict runs/mine/models/head new    the class of each picture in the folder new
    thaw COMMAND --help                       what a command takes
    """


@cli.command(short_help="Train a backbone in several ways, compare them, write a report")
@click.argument("source", required=False, shell_complete=complete_file)
@of_recipe
@click.option("--out", type=click.Path(path_type=Path), help="The folder for the results.  [default: runs/RECIPE]")
@of_settings
@click.option("--dry-run", is_flag=True, help="Show what would be trained, frozen and cached, and stop.")
def study(source: str | None, recipe: str | None, out: Path | None, settings: tuple[str, ...], dry_run: bool) -> None:
    """Train a backbone in several ways on the images of SOURCE, compare them, and write a report.

    SOURCE is a folder with a folder per class, a CSV or Parquet table, a Hugging Face dataset folder, or hf:NAME for
    one on the hub. Without SOURCE, the recipe says where the images are.
    """
    from thaw.recipe import load_recipe
    from thaw.study import plan_study, run_study

    resolved = load_recipe(recipe or ("photos" if source else "emoji-people"), source, settings)
    out = out or Path("runs") / (re.sub(r"[^\w.-]+", "-", resolved.name).strip(".-") or "study")
    if dry_run:
        print_plan(*plan_study(resolved))
        return

    found = run_study(resolved, out, shlex.join(["thaw", *sys.argv[1:]]))
    print_results(found)
    click.echo(plain(f"Report: {out / 'report.html'}"))


@cli.command(short_help="Look at your images and write a commented recipe for them")
@click.argument("source", shell_complete=complete_file)
@click.option("--out", type=click.Path(path_type=Path), default="recipe.toml", show_default=True, help="The recipe.")
def init(source: str, out: Path) -> None:
    """Look at the images of SOURCE and write a commented recipe for them.

    SOURCE is what `thaw study` takes: a folder with a folder per class, a CSV or Parquet table, a Hugging Face dataset
    folder, or hf:NAME.
    """
    from thaw.init.guess import look_at
    from thaw.init.recipe import write_recipe

    look = look_at(source)
    write_recipe(look, out)
    click.echo(f"Recipe: {out}, for {len(look.source.ids):,} images of {len(look.source.classes):,} classes")
    if look.why["label"].startswith("a guess"):
        click.echo(f"Classes: the column {look.data.label!r}, {look.why['label']}")
    click.echo(f"Look it over, then: thaw study --recipe {shlex.quote(str(out))}")


@cli.command(short_help="Audit images and splits: odd files, duplicates, leaks")
@click.argument("source", required=False, shell_complete=complete_file)
@of_recipe
@of_settings
@click.option("--json", "as_json", is_flag=True, help="Write all that was found to standard output as JSON.")
def check(source: str | None, recipe: str | None, settings: tuple[str, ...], as_json: bool) -> int:
    """Audit the images and splits of SOURCE before anything is trained on them.

    Looks for files that cannot be read or are odd, unbalanced classes, exact and near duplicates inside and across
    splits, and duplicates with different labels. Where test images have copies in train or validation, a linear probe
    tells how much test accuracy they are worth.

    Exit code 0 when nothing is wrong, 1 when there is a finding of severity error (exact copies of test images in
    other splits; near copies of a fifth of them or more; copies that change test accuracy; contradicting labels of
    exact copies), 2 when the images or the recipe cannot be used.
    """
    from thaw.recipe import load_recipe
    from thaw.study import check_source

    found = check_source(load_recipe(recipe or ("photos" if source else "emoji-people"), source, settings))
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        print_audit(found)
    return int(any(finding["severity"] == "error" for finding in found["findings"]))


@cli.command(short_help="List the built-in recipes, or print one to change")
@click.argument("name", required=False, shell_complete=complete_recipe)
def recipes(name: str | None) -> None:
    """List the built-in recipes, or print the recipe NAME, to copy and change."""
    from thaw.recipe import built_in_recipes, recipe_text

    if name:
        click.echo(plain(recipe_text(name)), nl=False)
        return
    for known in built_in_recipes():
        first = recipe_text(known).splitlines()[0].removeprefix("# ")
        click.echo(f"{known:<20}{first}")


@cli.command(short_help="Write the report of a finished run anew")
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Write the report of a finished RUN folder anew."""
    from thaw.report.page import write_report

    click.echo(plain(f"Report: {write_report(run)}"))


@cli.command(short_help="Say the class of images with a trained model")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, shell_complete=complete_file)
@click.option("--out", type=click.Path(path_type=Path), help="The file to write.  [default: standard output]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "jsonl", "parquet"]),
    help="What to write.  [default: what the ending of --out says, else a table to read]",
)
@click.option(
    "--top", type=click.IntRange(1), metavar="K", help="The K likeliest classes of each image, in place of all."
)
@click.option(
    "--heatmaps",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write each image to this folder, under a map of what in it spoke for its class.",
)
@click.option(
    "--image",
    "column",
    metavar="COLUMN",
    default="image",
    show_default=True,
    help="Where a table among IMAGES has paths or pictures.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a GPU where there is one.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="How exactly; auto takes bf16 where the processor is faster with it, fp32 repeats the study's numbers.",
)
def predict(
    bundle: Path,
    images: tuple[str, ...],
    form: str | None,
    out: Path | None,
    top: int | None,
    heatmaps: Path | None,
    column: str,
    device: str,
    precision: str,
) -> None:
    """Say the class of each of IMAGES, and how sure that is, with the trained model in the folder BUNDLE.

    BUNDLE is RUN/models/ARM, as a study leaves it. IMAGES are files, folders, patterns such as '**/*.jpg', CSV or
    Parquet tables, or - for paths on standard input, one a line. An image that cannot be read is noted on standard
    error and passed over.

    \b
    thaw predict runs/mine/models/head new --out new.csv
    thaw predict runs/mine/models/head new --top 3 --heatmaps maps
    find . -name '*.jpg' | thaw predict runs/mine/models/head - --format jsonl
    """
    from thaw.bundle.inputs import find_pictures
    from thaw.bundle.load import load
    from thaw.bundle.output import format_of, write_predictions

    form = format_of(form, out)
    loaded = load(bundle, device, precision)
    pictures, count = find_pictures(images, column, sys.stdin)
    try:
        write_predictions(loaded, pictures, count, form, out, top, heatmaps)
    except BrokenPipeError:  # whoever reads the output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


@cli.command(short_help="Open a local page: try a model, watch a study go on")
@click.argument("path", metavar="BUNDLE_OR_RUN", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Who can reach it; 0.0.0.0 lets the network in.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes a free one.")
def serve(path: Path, host: str, port: int) -> None:
    """Open a local page to look at a model, or at a run while it goes on.

    Drop images there, or use the camera: class, probabilities, heat map, and the most similar training images of a
    finished run. A JSON endpoint lies beside it, described at /openapi.json. Ctrl-C ends it.
    """
    try:
        from thaw.serve.server import serve as serve_path
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn"):
            raise
        raise StorageError(
            "thaw serve needs FastAPI and uvicorn; pip install 'thaw-vision[serve]' brings them."
        ) from error

    serve_path(path, host, port, click.echo)


@cli.command(short_help="Write a trained model as one ONNX, torch or int8 file")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["onnx", "torch", "int8"]), required=True, help="The kind of file.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write.  [default: one in the bundle]")
@click.option("--check", type=click.Path(path_type=Path), help="A folder of pictures to check the export on.")
def export(bundle: Path, to: str, out: Path | None, check: Path | None) -> None:
    """Write the model in BUNDLE, such as RUN/models/ARM, as one file from raw pictures to probabilities.

    Resizing, normalisation and temperature are inside. The file is checked against the bundle on real pictures before
    it is kept.
    """
    from thaw.export.export import export_bundle

    exported = export_bundle(bundle, to, out, check)
    checked, amount = exported.metadata["check"], size(exported.path.stat().st_size)
    click.echo(
        f"{exported.path} ({amount}): {checked['same_class']} of {checked['pictures']} pictures get the bundle's "
        f"class, probabilities differ by at most {checked['largest_difference']:.1e}"
    )
    if accuracy := exported.metadata.get("accuracy"):
        click.echo(
            f"Accuracy on {accuracy['images']:,} test pictures: {accuracy['int8']:.4f}, "
            f"of the bundle itself {accuracy['bundle']:.4f}"
        )


@cli.command(short_help="Upload a trained model to the Hugging Face hub")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("name", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="Show it to nobody else.")
def push(bundle: Path, name: str, private: bool) -> None:
    """Upload the trained model in the folder BUNDLE, such as RUN/models/ARM, to the Hugging Face hub.

    Its model card goes with it. `hf auth login`, or the variable HF_TOKEN, says who you are there.
    """
    from thaw.bundle.push import push

    click.echo(push(bundle, name, private))


@cli.command(short_help="List or clear what is kept of work that cannot change")
@click.argument("action", type=click.Choice(["list", "clear"]), default="list")
def cache(action: str) -> None:
    """List what is kept of work that cannot change, or clear it."""
    from datetime import datetime

    if action == "clear":
        freed, in_use = clear()
        kept = f"; {in_use} in use by running studies stay" if in_use else ""
        click.echo(f"Freed {size(freed)} in {cache_folder()}{kept}")
        return
    listed = entries()
    table = Table("kind", "key", "size", "last used", box=None)
    for entry in listed:
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
        table.add_row(entry.kind, entry.key, size(entry.bytes), used if entry.finished else f"{used}, unfinished")
    if listed:
        Console(highlight=False).print(table)
    total = size(sum(entry.bytes for entry in listed))
    click.echo(f"{total} of {size(CACHE_BYTES)} in {cache_folder()}; THAW_CACHE names another folder")


@cli.command(short_help="Have the shell complete commands when Tab is pressed")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what has SHELL complete commands, recipes and the keys of --set when Tab is pressed.

    \b
    bash    thaw completion bash >> ~/.bashrc
    zsh     thaw completion zsh >> ~/.zshrc, below the line with compinit
    fish    thaw completion fish > ~/.config/fish/completions/thaw.fish
    """
    click.echo(script(shell, cli))


def main() -> None:
    """Run the command line; never a traceback for what a person can put right."""
    _mend_streams()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    with ends_promptly(lambda: _tell(_stopped(arguments))):
        sys.exit(_run(arguments, debug="--debug" in sys.argv))


def _mend_streams() -> None:
    """Have names of files that are no text in the terminal's encoding pass, and streams that are closed be empty."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (for as long as the command runs)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if mode == "r" else "backslashreplace")


def _run(arguments: list[str], debug: bool) -> int:
    """The exit code of a command; what went wrong is one sentence on standard error."""
    caught: Exception
    try:
        return int(cli.main(arguments or ["--help"], "thaw", standalone_mode=False) or 0)
    except ThawError as error:
        caught, message, code = error, str(error), 2
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "thaw"
        caught, code = error, 2
        message = f"{error.format_message().rstrip('.')}; {command} --help lists what there is."
    except click.Abort as error:
        raise KeyboardInterrupt from error
    except Exception as error:  # the one place where anything unexpected ends
        caught, message, code = error, _unexpected(error), 1
        if isinstance(error, OSError) and is_full(error):
            message, code = str(no_room(Path(error.filename or cache_folder()), 0)), 2
        elif out_of_memory(error):
            message, code = _no_memory(error), 2
    if debug:
        traceback.print_exception(caught)
    _tell(message)
    return code


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {error}; run it with --debug and report the traceback."


def _no_memory(error: Exception) -> str:
    return (
        f"there is not enough memory ({first_line(error)}); close other programs and type the same command again, "
        "which goes on from what is kept, or make images.size or train.batch_size smaller."
    )


def _stopped(arguments: list[str]) -> str:
    if arguments[:1] != ["study"]:
        return "stopped."
    return (
        f"stopped; every finished piece is kept in {cache_folder()}; to go on from there, type the same command again: "
        f"{shlex.join(['thaw', *arguments])}"
    )


def _tell(message: str) -> None:
    click.echo(f"thaw: {plain(' '.join(message.split()))}", err=True)
