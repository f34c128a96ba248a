"""What a report says and draws of depths and labels, against numbers written by hand."""

import json

import pytest

from helpers.small_metrics import as_metrics
from helpers.synthetic_run import make_run, write_json
from thaw.report.figures import arm_colour
from thaw.report.page import write_report
from thaw.report.sweep import by_depth, labelling, score_intervals, thawing
from thaw.report.sweep_figures import plot_labels, plot_thawed
from thaw.scoring.labels import LabelCurve


def study(scores, pairs=(), best=None, gain=None, metric="accuracy"):
    """A study of arms that thaw a fraction of the arithmetic, None for none, with a score each.

    `pairs` are (ahead, over, gap, low, high, p); `gain` of the best arm by the last labels is (gain, low, high).
    """
    best = best or max(scores, key=lambda arm: scores[arm][1])
    point = {"score": 0.8, "interval": [0.7, 0.9], "scores": [0.8], "seconds": 1.0}
    curve = {
        "points": [{"fraction": 0.5, "images": 600, **point}, {"fraction": 1.0, "images": 1200, **point}],
        **dict(zip(("gain", "gain_interval"), (gain[0], gain[1:]) if gain else (0, (0, 0)), strict=True)),
    }
    return as_metrics(
        {
            "best": best,
            "recommended": best,
            "arms": {
                arm: {"thawed": depth and {"first": "layer", "arithmetic": depth, "parameters": depth}}
                for arm, (depth, _) in scores.items()
            },
            "verdict": {"metric": metric, "arms": {arm: {"score": score} for arm, (_, score) in scores.items()}},
            "comparisons": [
                {"arms": (ahead, over), "difference": gap, "interval": (low, high), "p": p, "p_holm": p}
                for ahead, over, gap, low, high, p in pairs
            ],
            "labels": {"metric": metric, "arms": dict.fromkeys(scores, curve)} if gain else None,
        }
    )


ARMS = {"scratch": (None, 0.5), "head": (0.01, 0.8), "stage": (0.3, 0.86), "all": (1.0, 0.85)}
PAIRS = (
    ("stage", "head", 0.06, 0.02, 0.1, 0.001),
    ("stage", "all", 0.01, -0.02, 0.04, 0.5),
    ("head", "all", -0.05, -0.09, -0.01, 0.01),
)


def test_the_rise_and_what_comes_after_it_are_told_with_their_intervals() -> None:
    assert thawing(study(ARMS, PAIRS)) == (
        "From `head` to `stage`, which thaws 30% of the arithmetic, accuracy rises by 6.0 points (95% interval 2.0 to "
        "10.0 points); `all` is lower by 1.0 point (95% interval −2.0 to 4.0 points), which may be chance."
    )
    assert thawing(study(ARMS | {"all": (1.0, 0.9)}, (("all", "head", 0.1, 0.05, 0.15, 0.001),))) == (
        "From `head` to `all` accuracy rises by 10.0 points (95% interval 5.0 to 15.0 points)."
    )


def test_a_head_that_is_best_is_told_so() -> None:
    pairs = (("head", "all", 0.01, -0.02, 0.04, 0.5),)
    arms = {"head": (0.01, 0.86), "stage": (0.3, 0.8), "all": (1.0, 0.85)}
    assert thawing(study(arms, pairs)) == (
        "Thawing more than `head` brings nothing here: the best that does, `all`, is behind by 1.0 point (95% interval "
        "−2.0 to 4.0 points), which may be chance."
    )


def test_of_two_arms_at_one_depth_the_better_counts_and_two_depths_are_no_curve() -> None:
    assert by_depth(study(ARMS | {"linear": (0.01, 0.81)})) == ["linear", "stage", "all"]
    assert by_depth(study({"head": (0.01, 0.8), "linear": (0.01, 0.81), "all": (1.0, 0.9)})) == []
    assert thawing(study({"head": (0.01, 0.8), "all": (1.0, 0.9)})) == ""
    assert labelling(study(ARMS)) == ""


@pytest.mark.parametrize(
    ("gain", "told"),
    [
        ((0.02, 0.01, 0.03), "gains 2.0 points (95% interval 1.0 to 3.0 points): up to here, more labels help."),
        ((-0.02, -0.03, -0.01), "loses 2.0 points (95% interval −3.0 to −1.0 points): more labels do not help."),
        (
            (0.01, -0.01, 0.03),
            "gains 1.0 point (95% interval −1.0 to 3.0 points), which may be chance: that more labels would help is "
            "not shown.",
        ),
    ],
)
def test_what_the_last_labels_brought_is_told_with_what_thawing_would(gain, told) -> None:
    said = labelling(study(ARMS, PAIRS, gain=gain))
    assert said.startswith(f"With 1,200 images to train on instead of 600, `stage`, the best arm, {told}")
    assert said.endswith(
        " Thawing more, as `all` does, loses 1.0 point (95% interval −2.0 to 4.0 points), which may be chance."
    )
    assert labelling(study({"one": (None, 0.8)}, gain=gain)).endswith(told)


def test_an_arm_that_thaws_the_most_is_compared_with_the_one_before_it() -> None:
    arms, pairs = ARMS | {"all": (1.0, 0.9)}, (("all", "stage", 0.04, 0.01, 0.07, 0.01),)
    assert labelling(study(arms, pairs, gain=(0.02, 0.01, 0.03))).endswith(
        " It thaws the most of all, which over `stage` brings 4.0 points (95% interval 1.0 to 7.0 points)."
    )


def test_intervals_follow_the_verdicts_metric() -> None:
    arms = {"head": (0.01, -0.3)}
    assert score_intervals(study(arms)) == {"head": (0.8, 0.95)}
    assert score_intervals(study(arms, metric="log_loss")) == {"head": (-0.4, -0.2)}


def test_the_depth_figure_puts_each_arm_at_its_share() -> None:
    scores = {"scratch": 0.5, "head": 0.8, "linear": 0.81, "all": 0.85}
    thawed = {"all": 1.0, "head": 0.01, "linear": 0.01}
    ax = plot_thawed(thawed, scores, {arm: (score - 0.1, score + 0.05) for arm, score in scores.items()}, "accuracy")
    line, *drawn = ax.get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0.01, 1.0], [0.81, 0.85])
    dots = [(*one.get_xdata(), *one.get_ydata(), one.get_color()) for one in drawn if len(one.get_xdata()) == 1]
    assert dots == [(0.01, 0.8, arm_colour(1)), (0.01, 0.81, arm_colour(4)), (1.0, 0.85, arm_colour(2))]
    assert {text.get_text() for text in ax.texts} == set(thawed)
    assert ax.get_ylim()[1] <= 1.01


def test_the_label_figure_draws_a_line_for_each_arm() -> None:
    def curve(score: float) -> LabelCurve:
        points = [
            {"fraction": fraction, "images": images, "score": score, "interval": (score - 0.1, score + 0.05)}
            | {"scores": [score], "seconds": 1.0}
            for fraction, images in ((0.1, 12), (0.5, 60), (1.0, 120))
        ]
        return LabelCurve.model_validate({"points": points, "gain": 0.0, "gain_interval": (0.0, 0.0)})

    ax = plot_labels({"head": curve(0.7), "all": curve(0.8)}, "accuracy")
    lines = {str(line.get_label()): line for line in ax.get_lines()}
    lines = {label: line for label, line in lines.items() if not label.startswith("_")}
    assert {arm: list(line.get_ydata()) for arm, line in lines.items()} == {"head": [0.7] * 3, "all": [0.8] * 3}
    assert list(lines["head"].get_xdata()) == pytest.approx([12, 60, 120], rel=0.05)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["12", "60", "120"]
    assert ax.get_xscale() == "log"


def test_a_page_opens_with_depths_and_has_a_section_on_labels(tmp_path) -> None:
    run = make_run(tmp_path, images=120, labels=True)
    page = write_report(run).read_text(encoding="utf-8")
    assert page.index('id="fig-thawed"') < page.index('id="fig-accuracy-on-test"')
    assert 'href="#fig-thawed">Figure 1<' in page
    assert 'id="fig-labels"' in page
    assert 'id="tab-labels"' in page
    assert '<a href="#labels">Labels</a>' in page
    metrics = json.loads((run / "metrics.json").read_text())
    for it in metrics["arms"].values():
        it["thawed"] = None
    write_json(run / "metrics.json", metrics | {"labels": None})
    plain = write_report(run).read_text(encoding="utf-8")
    assert "fig-thawed" not in plain
    assert "#labels" not in plain
