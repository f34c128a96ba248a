"""What undermines trust, in the order of its weight, and published results beside the study's own."""

import pytest

from helpers.small_metrics import as_metrics
from thaw.recipe import Published
from thaw.report.published import agreement, compared
from thaw.report.trust import doubts
from thaw.scoring.statistics import wilson
from thaw.text import SPACE


def arm(edge=None, curve=(0.9, 0.9)):
    trial = {"seed": 0, "edge": edge, "epochs": [{"loss": 0.4, "accuracy": value} for value in curve]}
    return {"trials": [trial], **trial}


def study(arms, **audit):
    names = list(arms)
    return as_metrics({"best": names[-1], "recommended": names[0], "arms": arms, "audit": audit})


def told(metrics):
    return [it.what.replace(SPACE, " ") for it in doubts(metrics)]


def test_nothing_undermines_a_sound_study():
    assert doubts(study({"head": arm(), "all": arm()})) == []


def test_leaks_come_first_then_labels_edges_and_training():
    conflicting = {"exact": 1, "near": 3, "examples": []}
    leak = {"accuracy": 0.9, "accuracy_grouped": 0.8, "effect": 0.1, "interval": [0.04, 0.16], "method": "probe"}
    arms = {"head": arm("highest"), "all": arm("lowest", (0.8, 0.85))}
    metrics = study(arms, leaked=44, leak=leak, conflicting=conflicting)
    assert told(metrics) == [
        "44 of 1,000 test images have a copy in another split. The copies change accuracy by 10.0 points (4.0 to "
        "16.0).",
        "1 group of identical images has different labels. 3 pairs of images that look almost the same have different "
        "labels.",
        "The search ended at the highest or lowest learning rate that it tried for `head` and `all`; one outside of "
        "these may do better.",
        "`all` was still improving in the last epoch (training accuracy: by 5.0 points); more epochs may help.",
    ]
    assert [it.grave for it in doubts(metrics)] == [True, True, False, False]


def test_a_leak_may_be_chance_or_not_measured():
    leak = {"accuracy": 0.9, "accuracy_grouped": 0.8, "effect": 0.1, "interval": [-0.04, 0.16], "method": "probe"}
    assert told(study({"head": arm()}, leaked=1, leak=leak)) == [
        "1 of 1,000 test images has a copy in another split. The copies change accuracy by 10.0 points (−4.0 to 16.0), "
        "which may be chance."
    ]
    assert told(study({"head": arm()}, leaked=2))[0].endswith("How much that flatters the scores is not known.")


def test_of_many_arms_the_number_is_told():
    metrics = study({f"arm-{number}": arm("highest", (0.8, 0.8 + number / 100)) for number in range(2, 7)})
    assert told(metrics) == [
        "The search ended at the highest learning rate that it tried for 5 arms; a higher one may do better.",
        "5 arms were still improving in the last epoch (training accuracy: by up to 6.0 points); more epochs may help.",
    ]


def test_published_scores_agree_where_chance_explains_the_difference():
    metrics = study({"head": arm(), "all": arm()})  # 0.9 each, within 0.8 to 0.95
    found = compared(
        metrics,
        {
            "head": Published(accuracy=0.93, f1=0.99, images=2000),
            "gone": Published(accuracy=0.5, images=10),
        },
    )
    assert [(it.arm, it.score, it.agree) for it in found] == [("head", "accuracy", True), ("head", "f1", False)]
    low, high = wilson(0.93, 2000)
    assert found[0].within == (low, high)
    # Newcombe's method 10
    assert found[0].change[0] == pytest.approx(-0.03 - ((0.9 - 0.8) ** 2 + (high - 0.93) ** 2) ** 0.5)
    assert found[0].change[1] == pytest.approx(-0.03 + ((0.95 - 0.9) ** 2 + (0.93 - low) ** 2) ** 0.5)
    assert agreement(found).startswith(
        "1 of 2 published scores agree with this study. More than chance is the difference in F1 of `head` (90.0% "
        "here, 99.0% published; difference −9.0, 95% interval −19.0 to "
    )
    assert agreement(found[:1]) == "The published score agrees with this study: its difference may be chance."
    assert agreement([]) == ""
