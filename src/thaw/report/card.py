"""The model card: a bundle's `README.md`, with the metadata that the Hugging Face hub reads."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from thaw.bundle.load import read_config
from thaw.cache.files import write_atomic, write_json
from thaw.text import count

SCORES = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1"}
HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "apple-ascl", "apple-amlr", "gemma")
"""Licences that the hub knows by the names that timm gives; any other is `other` there, with a name of its own."""


def complete_bundles(run: Path, found: dict[str, Any]) -> None:
    """Add to each bundle of a run what only the whole study tells: intervals, temperature, slices; and its card.

    `found` is what `metrics.json` holds.
    """
    for arm, of_arm in found["arms"].items():
        folder = run / "models" / arm
        config = read_config(folder)
        calibration = of_arm.get("calibration") or {}
        config["temperature"] = calibration.get("temperature")
        config["test"] |= {"intervals": of_arm["intervals"], "images": found["splits"]["test"]}
        write_atomic(folder / "README.md", card(config, found))
        write_json(folder / "config.json", config)


def card(config: dict[str, Any], found: dict[str, Any]) -> str:
    """The text of the model card of one arm, from its bundle's `config.json` and the run's `metrics.json`."""
    sections = [
        _summary(config, found),
        _use(config),
        _scores(config, found),
        _slices(config, found),
        _limits(config, found),
        _training(config, found),
    ]
    body = "\n\n".join(section for section in sections if section)
    return str(ModelCard(f"---\n{metadata(config, found).to_yaml()}\n---\n\n{body}\n"))


def metadata(config: dict[str, Any], found: dict[str, Any]) -> ModelCardData:
    """What the hub shows and searches by: task, licence, base model, data set and the scores on the test set."""
    source, licence = config["data"]["source"], config["weights"]["licence"]
    dataset = source.removeprefix("hf:")
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=dataset if source.startswith("hf:") else "images",
            dataset_name=dataset,
            dataset_split="test",
            metric_type=score,
            metric_name=title,
            metric_value=config["test"][score],
        )
        for score, title in SCORES.items()
    ]
    given: dict[str, Any] = {}
    if licence in HUB_LICENCES:
        given["license"] = licence
    elif licence and licence.startswith("https://"):
        given |= {"license": "other", "license_name": "see-link", "license_link": licence}
    elif licence:
        given |= {"license": "other", "license_name": re.sub(r"[^a-z0-9.-]+", "-", licence.lower())}
    if source.startswith("hf:"):
        given["datasets"] = [dataset]
    if config["weights"]["hub"]:
        given["base_model"] = config["weights"]["hub"]
    return ModelCardData(
        pipeline_tag="image-classification",
        library_name="thaw",
        tags=["image-classification", "transfer-learning", "thaw"],
        metrics=list(SCORES),
        model_name=_name(found, config),
        eval_results=results,
        **given,
    )


def _summary(config: dict[str, Any], found: dict[str, Any]) -> str:
    classes = [_plain(name) for name in config["classes"]]
    shown = ", ".join(classes[:20]) + (f" and {len(classes) - 20:,} more" if len(classes) > 20 else "")
    trained = found["arms"][config["arm"]]["train"]
    trained = trained if isinstance(trained, str) else ", ".join(trained)
    return (
        f"# {_plain(_name(found, config))}\n\n"
        f"An image classifier: `{config['backbone']}`, started from the weights {_code(config['weights']['name'])} "
        f"and trained ({_code(trained)}) on {_plain(config['data']['source'])} to tell {len(classes):,} classes: "
        f"{shown}."
    )


def _use(config: dict[str, Any]) -> str:
    return (
        "## Use\n\n"
        "With this folder and `pip install thaw-vision`:\n\n"
        '```python\nimport thaw\n\nmodel = thaw.load("path/to/this/folder")\n'
        'model.predict(["picture.jpg"])\nmodel.predict_proba(["picture.jpg"])\n```\n\n'
        "```sh\nthaw predict path/to/this/folder pictures/ --out predictions.csv\n```\n\n"
        "`config.json` holds the classes in order, the preprocessing and where everything comes from; "
        f"`model.safetensors` has the parameter names of {config['backbone'].split('/')[0]}.\n\n"
        f"**Intended use.** Pictures of the kind it was trained on, {_plain(config['data']['source'])}, where one of "
        "the classes above applies."
    )


def _scores(config: dict[str, Any], found: dict[str, Any]) -> str:
    test, of_arm = config["test"], found["arms"][config["arm"]]
    seeds, means = len(of_arm["runs"]), of_arm["over_seeds"]
    several = [f"mean of {seeds} seeds", "95% interval of it"] if seeds > 1 else ["95% interval"]
    columns = ["score", "this model" if seeds > 1 else "value", *several]
    rows = []
    for score, title in SCORES.items():
        mean = [f"{means[score]['mean']:.4f}"] if seeds > 1 else []
        rows.append([title, f"{test[score]:.4f}", *mean, _interval(test["intervals"][score])])
    lines = [
        "## Scores",
        "",
        f"On {test['images']:,} test images that neither training nor any choice had seen "
        f"({_plain(found['data']['how']['test'])}). Precision, recall and F1 are weighted by class.",
        "",
        *(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)),
    ]
    return "\n".join(lines)


def _slices(config: dict[str, Any], found: dict[str, Any]) -> str:
    lines, seeds = [], len(found["arms"][config["arm"]]["runs"])
    for one in found.get("slices") or []:
        for value in one["values"]:
            it = value["arms"].get(config["arm"])
            if it is not None:
                small = ", few images" if value["small"] else ""
                lines.append(
                    f"| {_plain(one['column'])} | {_plain(str(value['value']))} | {value['count']:,}{small} "
                    f"| {it['accuracy']:.4f} | {_interval(it['interval'])} |"
                )
    if not lines:
        return ""
    head = [
        "## Scores by slice",
        "",
        *([f"Means of {seeds} seeds, of which this model is the first.", ""] if seeds > 1 else []),
        "| column | value | test images | accuracy | 95% interval |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines])


def _limits(config: dict[str, Any], found: dict[str, Any]) -> str:
    calibration = found["arms"][config["arm"]].get("calibration") or {}
    if config["temperature"]:
        chances = f"Probabilities are calibrated: logits are divided by the temperature {config['temperature']:.3f}."
    else:
        chances = "Probabilities are the plain softmax and were not calibrated."
    if calibration.get("ece") is not None:
        error = calibration["ece_after"] if config["temperature"] else calibration["ece"]
        if error is not None:
            chances += f" Their expected calibration error on the test images is {error:.3f}."
    weights = config["weights"]
    if weights.get("terms"):
        terms = f"Licence of the starting weights: {_plain(weights['terms'])} See {weights['licence']}. "
        terms += "The terms of your own data apply besides."
    elif weights["licence"]:
        terms = f"The starting weights are under {_plain(weights['licence'])}; the terms of the data apply besides."
    elif weights["name"] == "random":
        terms = "It started from random weights; the terms of the data apply."
    else:
        terms = "No licence is stated for the starting weights; find out theirs and the data's before you publish this."
    return (
        "## Limits\n\n"
        "- A picture of anything else still gets one of these classes, sometimes with a high probability.\n"
        "- The scores hold for pictures drawn like the test images. Other cameras, places, people or times were not "
        "measured.\n"
        "- It finds what goes along with the labels in its data, mistakes and prejudices included; it is not made to "
        "decide about people.\n"
        f"- {chances}\n"
        f"- {terms}"
    )


def _training(config: dict[str, Any], found: dict[str, Any]) -> str:
    splits, it = found["splits"], found["arms"][config["arm"]]
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    return (
        "## Training\n\n"
        f"{splits['train']:,} training and {splits['validation']:,} validation images; learning rate "
        f"{it['learning_rate']:g}, chosen on validation; {count(len(it['epochs']), 'epoch')}. Fingerprint of the data: "
        f"`{config['data']['fingerprint']}`. Versions: {versions}.\n\n"
        f"The recipe:\n\n```toml\n{config['recipe'].replace('```', '')}```"
    )


def _name(found: dict[str, Any], config: dict[str, Any]) -> str:
    return f"{found['recipe']}-{config['arm']}"


def _interval(bounds: list[float]) -> str:
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def _code(text: str) -> str:
    return f"`{' '.join(text.replace('`', '').split())}`"


def _plain(text: str) -> str:
    """Text that means nothing to Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))
