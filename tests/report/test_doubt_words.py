"""What the report says of doubt: sentences with the right numbers, and nothing where nothing was measured."""

from pathlib import Path

import numpy as np

from helpers.synthetic_run import make_run
from thaw.report.doubt import doubt_of
from thaw.report.error_figures import plot_risk
from thaw.report.page import write_report
from thaw.run.doubt import Doubt
from thaw.run.metrics import Metrics, read_metrics
from thaw.scoring.conformal import measure_sets
from thaw.scoring.decision import Wanted, measure_decision
from thaw.scoring.risk import trace_risk
from thaw.scoring.unlike import Distances, measure_unlike


def doubtful(run: Path, rehearsed: bool = True, **wanted: object) -> Metrics:
    """The metrics of a made-up run, with a doubt for its recommended arm."""
    metrics = read_metrics(run)
    random, classes = np.random.default_rng(0), len(metrics.classes)
    probabilities = random.dirichlet(np.full(classes, 0.4), 800)
    labels = np.array([random.choice(classes, p=row) for row in probabilities])
    validation, test = (labels[:400], probabilities[:400]), (labels[400:], probabilities[400:])
    asked = Wanted.model_validate(
        {"positive": metrics.classes[1], "recall": None, "precision": None, "costs": None, **wanted}
    )
    away = random.random(800).astype(np.float32)
    doubt = Doubt(
        rehearsed=rehearsed,
        risk=trace_risk(*test),
        sets=measure_sets(*test, validation, 0.9),
        decision=measure_decision(*test, validation, asked, metrics.classes) if wanted else None,
        unlike=measure_unlike(Distances(away[:400], away[400:]), 0.05, None, ""),
    )
    own = metrics.arms[metrics.recommended].model_copy(update={"doubt": doubt})
    return metrics.model_copy(update={"arms": metrics.arms | {metrics.recommended: own}})


def test_sentences_have_the_numbers(tmp_path: Path) -> None:
    run = make_run(tmp_path, images=60, arms=("head", "everything"))
    metrics = doubtful(run, costs=[[0, 1], [10, 0]])
    found = metrics.arms[metrics.recommended].doubt
    assert found is not None
    assert found.decision is not None
    told = doubt_of(metrics, metrics.recommended)
    assert list(told) == ["answers", "sets", "threshold", "unlike", "rehearsed"]
    assert f"{100 * found.risk.area_at_random:.1f}%" in told["answers"]
    assert "90% of sets should hold the true one, within each class" in told["sets"]
    assert f"On test {100 * (found.sets.covered or 0):.1f}% do" in told["sets"]
    assert f"An image costs {found.decision.cost:.3f}" in told["threshold"]
    assert f"Of the test images {100 * (found.unlike.flagged or 0):.1f}% are" in told["unlike"]
    plain = doubtful(run, rehearsed=False)
    assert list(doubt_of(plain, plain.recommended)) == ["answers", "sets", "unlike"]
    assert doubt_of(read_metrics(run), metrics.recommended) == {}


def test_the_page_has_the_section_where_it_was_measured(tmp_path: Path) -> None:
    run = make_run(tmp_path, images=60, arms=("head", "everything"))
    assert 'id="doubt"' not in write_report(run).read_text()
    metrics = doubtful(run, recall=0.9)
    (run / "metrics.json").write_text(metrics.model_dump_json())
    page = write_report(run).read_text()
    assert 'id="doubt"' in page
    assert 'href="#doubt"' in page
    assert "For a recall of 90.0%, the model decides for male from a probability of" in page
    assert (run / "figures" / "risk-coverage.png").is_file()


def test_the_figure_draws_the_curve() -> None:
    points = [(0.5, 0.0), (1.0, 0.25)]
    axes = plot_risk({"head": points, "everything": [(1.0, 0.1)]})
    assert axes.lines[0].get_xydata().tolist() == [list(point) for point in points]
    assert axes.get_xlabel() == "images answered"
