"""The model card: a bundle's `README.md`, with the metadata that the Hugging Face hub reads."""

import re
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from thaw.bundle.doubt import DecideConfig, UnlikeConfig
from thaw.bundle.load import SUBSPACE, read_config
from thaw.cache.files import write_atomic, write_json
from thaw.nets.weights import sha256
from thaw.report.doubt import doubt_of
from thaw.run.doubt import Doubt
from thaw.run.metrics import Metrics
from thaw.text import count, escape_markdown, fitted

SCORES = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1"}
FURTHER = {
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "top5": "Top-5 accuracy",
}
HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "apple-ascl", "apple-amlr", "gemma")
"""Licences that the hub knows by the names that timm gives; any other is `other` there, with a name of its own."""


def complete_bundles(run: Path, metrics: Metrics) -> None:
    """Add to each bundle of a run what only the whole study tells: intervals, temperature, thresholds; and its card."""
    for arm, it in metrics.arms.items():
        folder = run / "models" / arm
        config = read_config(folder)
        config["temperature"] = it.calibration.temperature
        if it.doubt is not None:
            config |= told(it.doubt, folder)
        config["test"] |= {"intervals": it.intervals.model_dump(mode="json"), "images": metrics.splits["test"]}
        write_atomic(folder / "README.md", card(config, metrics))
        write_json(folder / "config.json", config)


def told(doubt: Doubt, folder: Path) -> dict[str, Any]:
    """Return what `config.json` says of prediction sets, thresholds and images unlike those of training."""
    sets, decision, unlike = doubt.sets, doubt.decision, doubt.unlike
    decide = DecideConfig(
        coverage=sets.coverage if sets.floors else None,
        by_class=sets.by_class,
        floors=sets.floors,
        positive=decision.wanted.positive if decision and decision.threshold is not None else None,
        threshold=decision.threshold if decision else None,
    )
    far = None
    if unlike.threshold is not None:
        digest = sha256(folder / SUBSPACE)
        far = UnlikeConfig(threshold=unlike.threshold, false_alarms=unlike.false_alarms, sha256=digest).model_dump()
    return {"decide": decide.model_dump(), "unlike": far}


def card(config: dict[str, Any], metrics: Metrics) -> str:
    """Write the model card of one arm, from its bundle's `config.json` and the metrics of its run."""
    template = resources.files("thaw.report").joinpath("card.md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "escape_markdown": escape_markdown,
        "code": _code,
        "interval": _interval,
        "count": count,
        "fitted": fitted,
    }
    arm = metrics.arms[config["arm"]]
    body = environment.from_string(template).render(
        config=config,
        metrics=metrics,
        arm=arm,
        name=_name(config, metrics),
        trained=arm.train if isinstance(arm.train, str) else ", ".join(arm.train),
        seeds=len(arm.trials),
        doubt=doubt_of(metrics, config["arm"]),
        scores={score: title for score, title in (SCORES | FURTHER).items() if config["test"][score] is not None},
    )
    return str(ModelCard(f"---\n{metadata(config, metrics).to_yaml()}\n---\n\n{body}\n"))


def metadata(config: dict[str, Any], metrics: Metrics) -> ModelCardData:
    """Return what the hub shows and searches by: task, licence, base model, data set and the scores on the test set."""
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
        model_name=_name(config, metrics),
        eval_results=results,
        **given,
    )


def _name(config: dict[str, Any], metrics: Metrics) -> str:
    return f"{metrics.recipe}-{config['arm']}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else "not known"


def _code(text: str) -> str:
    return f"`{' '.join(text.replace('`', '').split())}`"
