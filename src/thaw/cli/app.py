"""The command line: parse the arguments, call one function, print its result, return an exit code."""

import io
import json
import os
import shlex
import sys
import traceback
from pathlib import Path

import click

from thaw.cache.budget import cache_folder, clear
from thaw.cache.files import is_full, no_room
from thaw.cli.completion import SHELLS, complete_file, complete_recipe, complete_setting, script
from thaw.cli.interrupt import ends_promptly
from thaw.cli.options import default_folder, setting_for, side
from thaw.cli.tables import (
    print_audit,
    print_cache,
    print_left_out,
    print_networks,
    print_next,
    print_plan,
    print_results,
    print_scouted,
)
from thaw.errors import StorageError, ThawError, first_line, out_of_memory
from thaw.progress import console, say
from thaw.text import escape_terminal, format_bytes

TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")

recipe_option = click.option(
    "--recipe",
    metavar="NAME_OR_FILE",
    shell_complete=complete_recipe,
    help="A built-in recipe (see `thaw recipes`) or a TOML file.  [default: photos with a SOURCE, else emoji-people]",
)
settings_option = click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    shell_complete=complete_setting,
    help="Change a key of the recipe, such as train.epochs=10; KEY= removes it. May be repeated.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Device to compute on; auto uses a GPU if there is one.",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Numeric precision; auto uses bf16 where the hardware is faster with it, fp32 reproduces the study's numbers.",
)


class OrderedGroup(click.Group):
    """A group of commands, listed in the order in which they are defined."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=OrderedGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="thaw-vision", prog_name="thaw")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """How much of a pretrained network should you thaw? Measure it on your own images.

    \b
    thaw study                                run the built-in example, offline
    thaw study images --out runs/mine         run a study of your images: a folder with a subfolder per class
    thaw predict runs/mine/models/head new    classify every image in the folder new
    thaw COMMAND --help                       show the options of a command
    """


@cli.command(short_help="Train a backbone in several ways, compare them, write a report")
@click.argument("source", required=False, shell_complete=complete_file)
@recipe_option
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for the results.  [default: runs/ and the SOURCE's name]"
)
@click.option("--epochs", type=click.IntRange(1), metavar="N", help="Passes over the training images: train.epochs.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    help="Device to compute on: train.device.  [default: auto, a GPU if there is one]",
)
@click.option(
    "--size", metavar="PIXELS", help="Pixels of each side that the network sees, or HEIGHTxWIDTH: images.size."
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Use only N of the images, for a first look: data.limit."
)
@click.option(
    "--seed",
    "seeds",
    type=click.IntRange(0),
    metavar="N",
    multiple=True,
    help="Seed of every arm; repeat it for several: train.seeds.",
)
@settings_option
@click.option("--labels", metavar="FILE", help="CSV file with corrected labels, such as a run's label_errors.csv.")
@click.option(
    "--leave-out",
    metavar="COLUMN",
    help="Run a study for each value of this column, such as a site, with its images as the test set.",
)
@click.option(
    "--track",
    type=click.Choice(TRACKERS),
    help="Also show the trials in another tool, each as a run with its curves and scores.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be trained, frozen and cached, then exit.")
@click.option("--verbose", is_flag=True, help="With --dry-run, also list every module of the network.")
def study(
    source: str | None,
    recipe: str | None,
    out: Path | None,
    epochs: int | None,
    device: str | None,
    size: str | None,
    limit: int | None,
    seeds: tuple[int, ...],
    settings: tuple[str, ...],
    labels: str | None,
    leave_out: str | None,
    track: str | None,
    dry_run: bool,
    verbose: bool,
) -> None:
    """Train a backbone in several ways on the images of SOURCE, compare them, and write a report.

    SOURCE is a folder with a subfolder per class, a CSV or Parquet table, a Hugging Face dataset folder, or hf:NAME
    for a dataset on the hub. Without SOURCE, the recipe's data.source is used; without a recipe too, the built-in
    example runs.

    \b
    thaw study images --limit 500 --epochs 2                    a first look
    thaw study images --set model.backbone=timm/resnet50 --set model.weights=pretrained
    thaw study images --dry-run                                 what would be trained, frozen and cached
    """
    from thaw.recipe import load_recipe
    from thaw.studies import network_studies, run_left_out, run_networks
    from thaw.study import plan_recipe, run_study

    plain = {"train.epochs": epochs, "train.device": device, "images.size": size and side(size), "data.limit": limit}
    plain |= {"data.labels": None if labels is None else json.dumps(labels)}
    plain |= {"train.seeds": str(list(seeds)) if seeds else None}
    given = [f"{key}={value}" for key, value in plain.items() if value is not None]
    if source is None and recipe is None:
        say("without a SOURCE this runs the built-in example, 2,008 drawings of people; `thaw study FOLDER` runs yours")
    resolved = load_recipe(recipe or ("photos" if source else "emoji-people"), source, (*given, *settings))
    out = out or default_folder(source, recipe, resolved.name)
    several = bool(resolved.sweep.backbones)
    if several and leave_out:
        raise click.UsageError("--leave-out is for one network; leave out sweep.backbones")
    if dry_run:
        for own in network_studies(resolved).values() if several else [resolved]:
            print_plan(*plan_recipe(own), own, verbose)
        return
    command = shlex.join(["thaw", *sys.argv[1:]])
    if leave_out:
        print_left_out(leave_out, run_left_out(resolved, leave_out, out, command, track))
        click.echo(escape_terminal(f"Reports: {out}/*/report.html"))
        return
    if several:
        print_networks(run_networks(resolved, out, command, track), out)
        return
    results = run_study(resolved, out, command, track)
    print_results(results)
    print_next(results, out)


@cli.command(short_help="Find the networks and depths worth a study, before anything trains")
@click.argument("source", required=False, shell_complete=complete_file)
@click.option(
    "--backbones",
    metavar="A,B,...",
    help="Networks to look at, such as torchvision/resnet18,timm/convnext_atto; missing weights are downloaded.  "
    "[default: the recipe's, and known ones whose weights are on this machine]",
)
@recipe_option
@click.option(
    "--out", type=click.Path(path_type=Path), default="scout.toml", show_default=True, help="Recipe to write."
)
@settings_option
def scout(source: str | None, backbones: str | None, recipe: str | None, out: Path, settings: tuple[str, ...]) -> None:
    """Find the networks and depths worth a study of SOURCE, in about a minute, and write its recipe.

    Each network runs once over the training and validation images, 2,000 at most. After each of its layers a linear
    probe is fitted, and predicts each image from the others: what a head would reach there without any training of
    the network. Test images are not looked at. The table shows where each network could end, how accurate a head there
    is, with its 95% interval, and what the network up to there costs.

    Without --backbones nothing is downloaded.

    \b
    thaw scout images
    thaw scout images --backbones torchvision/mobilenet_v2,timm/vit_small_patch16_224
    thaw study --recipe scout.toml
    """
    from thaw.recipe import load_recipe
    from thaw.scout.probes import scout as find
    from thaw.scout.recipe import check_free, write_study

    check_free(out)
    name = recipe or ("photos" if source else "emoji-people")
    named = None if backbones is None else [one.strip() for one in backbones.split(",") if one.strip()]
    found = find(load_recipe(name, source, settings), named)
    print_scouted(found)
    write_study(found, name, out)
    click.echo(escape_terminal(f"Wrote {out}; review it, then run: thaw study --recipe {shlex.quote(str(out))}"))


@cli.command(short_help="Inspect your images and write a commented recipe for them")
@click.argument("source", shell_complete=complete_file)
@click.option("--out", type=click.Path(path_type=Path), default="recipe.toml", show_default=True, help="File to write.")
def init(source: str, out: Path) -> None:
    """Inspect the images of SOURCE and write a commented recipe for them.

    As for `thaw study`, SOURCE is a folder with a subfolder per class, a CSV or Parquet table, a Hugging Face dataset
    folder, or hf:NAME.
    """
    from thaw.init.guess import look_at
    from thaw.init.recipe import write_recipe

    look = look_at(source)
    write_recipe(look, out)
    click.echo(f"Wrote {out} for {len(look.source.ids):,} images of {len(look.source.classes):,} classes")
    if look.why["label"].startswith("a guess"):
        click.echo(f"Labels: the column {look.data.label!r}, {look.why['label']}")
    click.echo(f"Review it, then run: thaw study --recipe {shlex.quote(str(out))}")


@cli.command(short_help="Audit images and splits: bad or odd images, duplicates, leaks")
@click.argument("source", required=False, shell_complete=complete_file)
@recipe_option
@settings_option
@click.option("--json", "as_json", is_flag=True, help="Print the whole audit as JSON.")
def check(source: str | None, recipe: str | None, settings: tuple[str, ...], as_json: bool) -> int:
    """Audit the images and splits of SOURCE before training on them.

    Looks for unreadable files, odd images, unbalanced classes, exact and near duplicates within and across splits, and
    duplicates with different labels. If test images have copies in train or validation, a linear probe estimates how
    much that leak changes test accuracy.

    Exits with 0 if nothing is wrong; with 1 if there is a finding of severity error (exact copies of test images in
    other splits, near copies of at least a fifth of them, copies that change test accuracy, or exact copies with
    conflicting labels); with 2 if the images or the recipe cannot be used.
    """
    from thaw.recipe import load_recipe
    from thaw.study import check_source

    audit = check_source(load_recipe(recipe or ("photos" if source else "emoji-people"), source, settings))
    if as_json:
        click.echo(json.dumps(audit.model_dump(mode="json"), indent=1))
    else:
        print_audit(audit)
    return int(any(finding.severity == "error" for finding in audit.findings))


@cli.command(short_help="List the built-in recipes, or print one")
@click.argument("name", required=False, shell_complete=complete_recipe)
def recipes(name: str | None) -> None:
    """List the built-in recipes, or print the recipe NAME to copy and change."""
    from thaw.recipe import built_in_recipes, recipe_text

    if name:
        click.echo(escape_terminal(recipe_text(name)), nl=False)
        return
    for known in built_in_recipes():
        first = recipe_text(known).splitlines()[0].removeprefix("# ")
        click.echo(f"{known:<20}{first}")


@cli.command(short_help="Compare finished runs: scores side by side, tests, recipes")
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--worse-by",
    type=click.FloatRange(min=0, min_open=True),
    metavar="POINTS",
    help="Exit with 1 if the arm to use of a later run scores at least so many points less than that of the first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole comparison as JSON.")
def compare(runs: tuple[Path, ...], worse_by: float | None, as_json: bool) -> int:
    """Compare the finished runs in the folders RUN with the first of them, by its verdict's metric.

    Prints the score of each arm in each run, tests the differences image by image where the test images are the same,
    and lists what differs in the recipes. Exits with 1 only with --worse-by, for use in CI.

    \b
    thaw compare runs/before runs/after
    thaw compare runs/before runs/after --worse-by 1
    """
    from thaw.cli.compare import print_comparison
    from thaw.run.compare import compare_runs

    compared = compare_runs(runs)
    if as_json:
        click.echo(json.dumps(compared.model_dump(mode="json"), indent=1))
    else:
        print_comparison(compared)
    return int(worse_by is not None and compared.lost() >= worse_by)


@cli.command(short_help="Write the report of a finished run again")
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Write the report of the finished run in the folder RUN again."""
    from thaw.report.networks import write_networks_report
    from thaw.report.page import write_report
    from thaw.run.networks import FILE

    write = write_networks_report if (run / FILE).exists() else write_report
    click.echo(escape_terminal(f"Report: {write(run)}"))


@cli.command(short_help="Classify images with a trained model")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, shell_complete=complete_file)
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: standard output]")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["table", "csv", "jsonl", "parquet"]),
    help="Output format.  [default: from the extension of --out, else table]",
)
@click.option("--top", type=click.IntRange(1), metavar="K", help="Write only the K most likely classes of each image.")
@click.option(
    "--heatmaps",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write each image to this folder, overlaid with a heat map of the evidence for its class.",
)
@click.option(
    "--image",
    "column",
    metavar="COLUMN",
    default="image",
    show_default=True,
    help="Column with the paths or images, if IMAGES includes a table.",
)
@device_option
@precision_option
def predict(
    bundle: Path,
    images: tuple[str, ...],
    file_format: str | None,
    out: Path | None,
    top: int | None,
    heatmaps: Path | None,
    column: str,
    device: str,
    precision: str,
) -> None:
    """Classify IMAGES with the trained model in the folder BUNDLE, and give the probability of each class.

    BUNDLE is the folder RUN/models/ARM that a study writes. IMAGES are files, folders, patterns such as '**/*.jpg', CSV
    or Parquet tables, or - to read paths from standard input, one per line. An image that cannot be read is reported on
    standard error and skipped.

    \b
    thaw predict runs/mine/models/head new --out new.csv
    thaw predict runs/mine/models/head new --top 3 --heatmaps maps
    find . -name '*.jpg' | thaw predict runs/mine/models/head - --format jsonl
    """
    from thaw.bundle.inputs import find_images
    from thaw.bundle.load import load
    from thaw.bundle.output import Output, format_of, write_predictions

    output = Output(format_of(file_format, out), out, top)
    loaded = load(bundle, device, precision)
    found, count = find_images(images, column, sys.stdin)
    try:
        write_predictions(loaded, found, count, output, heatmaps)
    except BrokenPipeError:  # whoever reads the output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


@cli.command(short_help="Score a trained model, or all of a run, on new labelled images")
@click.argument("path", metavar="BUNDLE_OR_RUN", type=click.Path(path_type=Path))
@click.argument("source", shell_complete=complete_file)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for every score.")
@click.option("--predictions", type=click.Path(path_type=Path), help="CSV or Parquet file for each image's answers.")
@click.option("--label", default="label", show_default=True, metavar="COLUMN", help="Column with the classes.")
@click.option("--image", default="image", show_default=True, metavar="COLUMN", help="Column with the images or paths.")
@click.option("--group", metavar="COLUMN", help="Column whose values say which images are alike: a person, a patient.")
@click.option("--split", metavar="NAME", help="Test only this split of SOURCE.  [default: all its images]")
@click.option("--split-column", metavar="COLUMN", help="Column of a table that names the split of each row.")
@click.option("--known", is_flag=True, help="Leave out images of classes that the model does not know.")
@device_option
@precision_option
def test(
    path: Path,
    source: str,
    out: Path | None,
    predictions: Path | None,
    label: str,
    image: str,
    group: str | None,
    split: str | None,
    split_column: str | None,
    known: bool,
    device: str,
    precision: str,
) -> None:
    """Score a finished model on the labelled images of SOURCE, without training.

    BUNDLE_OR_RUN is a folder RUN/models/ARM, or RUN for all its arms. SOURCE is as for `thaw study`; its classes are
    matched with the model's by name.

    \b
    thaw test runs/mine new-photos
    thaw test runs/mine/models/head site-b.csv --label diagnosis --group patient --out site-b.json
    """
    from thaw.cli.tables import print_tested
    from thaw.recipe import Data
    from thaw.run.tested import check_answers, score_source, write_answers, write_scores

    if predictions:
        check_answers(predictions)
    resolved = source if source.startswith(("hf:", "thaw:")) else str(Path(source).expanduser().resolve())
    data = Data(source=resolved, label=label, image=image, group=group, split=split_column, test=split)
    tested = score_source(path, data, device, precision, known=known)
    if out:
        write_scores(out, tested)
    if predictions:
        write_answers(predictions, tested)
    print_tested(tested)


@cli.command(short_help="Serve a local page to try a model or watch a study")
@click.argument("path", metavar="BUNDLE_OR_RUN", type=click.Path(path_type=Path))
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 opens it to the network."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
def serve(path: Path, host: str, port: int) -> None:
    """Serve a local page to try a model, or to watch a run in progress.

    Drop images on it, or use the camera, to see the class, the probabilities, a heat map and, for a finished run, the
    most similar training images. A JSON API is described at /openapi.json. Press Ctrl-C to stop.
    """
    try:
        from thaw.serve.server import serve as serve_path
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn"):
            raise
        raise StorageError(
            "thaw serve needs FastAPI and uvicorn; install them with `pip install 'thaw-vision[serve]'`."
        ) from error

    serve_path(path, host, port, click.echo)


@cli.command(short_help="Export a trained model as one ONNX, torch.export or int8 file")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["onnx", "torch", "int8"]), required=True, help="Format to export to.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: a file in the bundle]")
@click.option("--check", type=click.Path(path_type=Path), help="Folder of images to check the export on.")
def export(bundle: Path, to: str, out: Path | None, check: Path | None) -> None:
    """Export the model in BUNDLE, such as RUN/models/ARM, as one file that maps raw pixels to probabilities.

    Resizing, normalisation and temperature are part of the file. It is written only if its predictions on real images
    agree with those of the bundle.
    """
    from thaw.export.export import export_bundle

    exported = export_bundle(bundle, to, out, check)
    checked, amount = exported.metadata["check"], format_bytes(exported.path.stat().st_size)
    click.echo(
        f"{exported.path} ({amount}): same class as the bundle for {checked['same_class']} of {checked['pictures']} "
        f"images, probabilities differ by at most {checked['largest_difference']:.1e}"
    )
    if accuracy := exported.metadata.get("accuracy"):
        click.echo(
            f"Accuracy on {accuracy['images']:,} test images: {accuracy['int8']:.4f}; "
            f"the bundle's is {accuracy['bundle']:.4f}"
        )


@cli.command(short_help="Upload a trained model to the Hugging Face hub")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("name", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="Make the repository private.")
def push(bundle: Path, name: str, private: bool) -> None:
    """Upload the trained model in the folder BUNDLE, such as RUN/models/ARM, to the Hugging Face hub.

    Its model card is uploaded with it. Log in first with `hf auth login`, or set the variable HF_TOKEN.
    """
    from thaw.bundle.push import push

    click.echo(push(bundle, name, private))


@cli.command(short_help="List or clear the cache")
@click.argument("action", type=click.Choice(["list", "clear"]), default="list")
@click.argument("key", default="")
def cache(action: str, key: str) -> None:
    """List or clear the cache: decoded pixels, activations and whatever else studies compute once and reuse.

    \b
    thaw cache                 every entry, and the source and network of the study that made it
    thaw cache clear           remove all of them
    thaw cache clear 3fa81c    remove the entry whose KEY begins so
    """
    if action == "clear":
        freed, in_use = clear(key)
        left = f"; left {in_use} in use by running studies" if in_use else ""
        click.echo(f"Freed {format_bytes(freed)} in {cache_folder()}{left}")
    else:
        print_cache()


@cli.command(short_help="Print a shell completion script")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script with which SHELL completes commands, recipes and the keys of --set.

    \b
    bash    thaw completion bash >> ~/.bashrc
    zsh     thaw completion zsh >> ~/.zshrc, after the line with compinit
    fish    thaw completion fish > ~/.config/fish/completions/thaw.fish
    """
    click.echo(script(shell, cli))


def main() -> None:
    """Run the command line and exit; an error that the user can fix never shows a traceback."""
    _prepare_streams()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    with ends_promptly(lambda: _tell(_stopped(arguments))):
        sys.exit(_run(arguments, debug="--debug" in sys.argv))


def _prepare_streams() -> None:
    """Let file names pass that the terminal's encoding cannot represent, and open closed streams on the null device."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (for as long as the command runs)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if mode == "r" else "backslashreplace")


def _run(arguments: list[str], debug: bool) -> int:
    """Run a command and return its exit code; an error is printed to standard error as one sentence."""
    caught: Exception
    try:
        return int(cli.main(arguments or ["--help"], "thaw", standalone_mode=False) or 0)
    except ThawError as error:
        caught, message, code = error, str(error), 2
    except click.ClickException as error:
        caught, message, code = error, _usage(error), 2
    except click.Abort as error:
        raise KeyboardInterrupt from error
    except Exception as error:  # the one place that catches anything unexpected
        caught, message, code = error, _unexpected(error), 1
        if isinstance(error, OSError) and is_full(error):
            message, code = str(no_room(Path(error.filename or cache_folder()), 0)), 2
        elif out_of_memory(error):
            message, code = _no_memory(error), 2
    if debug:
        traceback.print_exception(caught)
    _tell(message)
    return code


def _usage(error: click.ClickException) -> str:
    """Return click's message as one sentence, with its suggestion or else a pointer to the help."""
    command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "thaw"
    unknown = error.option_name if isinstance(error, click.NoSuchOption) else ""
    if command in ("thaw study", "thaw check") and (setting := setting_for(unknown)):
        return f"no such option {unknown!r}; set the recipe's key: --set {setting}."
    problem, _, suggestion = error.format_message().partition("Did you mean ")
    problem = problem[:1].lower() + problem[1:].rstrip(" (.")
    return f"{problem}; did you mean {suggestion.rstrip(')')}" if suggestion else f"{problem}; see `{command} --help`."


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {error}; run again with --debug and report the traceback."


def _no_memory(error: Exception) -> str:
    return (
        f"there is not enough memory ({first_line(error)}); close other programs and run the same command again to "
        "resume, or make images.size or train.batch_size smaller."
    )


def _stopped(arguments: list[str]) -> str:
    if arguments[:1] != ["study"]:
        return "stopped."
    return (
        f"stopped; finished work is saved in {cache_folder()}; to resume, run the same command again: "
        f"{shlex.join(['thaw', *arguments])}"
    )


def _tell(message: str) -> None:
    console.show_cursor()
    click.echo(f"thaw: {escape_terminal(' '.join(message.split()))}", err=True)
