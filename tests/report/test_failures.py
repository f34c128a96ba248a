"""What the report says of errors and limits, in each of the cases it words differently."""

import pytest

from helpers.small_metrics import as_metrics
from thaw.report.failures import failures, gaps, small_slices
from thaw.report.limits import findings, harm, leak, limits, narrow, people, sizes
from thaw.scoring.slices import ColumnScores


def gap(low, high, difference, p):
    interval = [difference - 0.02, difference + 0.03]
    return {"low": low, "high": high, "difference": difference, "interval": interval, "p": p, "p_holm": p}


def column(name, found, values=()):
    return {"column": name, "kind": "category", "values": list(values), "gaps": {"head": found} if found else {}}


def of_slice(value, count):
    return {"value": value, "count": count, "small": count < 30, "arms": {}}


def scores(name, values):
    return ColumnScores.model_validate(column(name, None, values))


def study(*slices, arms=("head", "all"), **more):
    """What metrics.json holds of a study that recommends `head`."""
    return {"best": arms[-1], "recommended": "head", "arms": {arm: {} for arm in arms}, "slices": list(slices), **more}


def calibration(confidence, accuracy, after=None):
    """With an error of a tenth, and `after` a temperature where one was fitted."""
    fitted = {
        "temperature": None if after is None else 1.2,
        "ece": 0.1,
        "ece_after": after,
        "reason": "fitted on others",
    }
    return fitted | {
        "bins": [
            {"low": 0.0, "high": 0.5, "count": 0, "confidence": None, "accuracy": None},
            {"low": 0.5, "high": 1.0, "count": 50, "confidence": confidence, "accuracy": accuracy},
        ]
    }


def test_a_clear_gap_is_told_with_its_test():
    metrics = study(column("age", gap("0-9", "20-29", 0.123, 0.00001)))
    assert failures(as_metrics(metrics))["slices"] == (
        "For `head`, age 0-9 is 12.3 points harder than age 20-29 (95% interval 10.3 to 15.3; corrected p < 0.0001)."
    )


def test_clear_gaps_come_first_and_unclear_ones_are_not_hidden():
    metrics = study(
        column("hat", gap("yes", "no", 0.2, 0.3)),
        column("race", gap("a", "b", 0.05, 0.01)),
        column("age", gap("old", "young", 0.1, 0.02)),
        column("camera", None),
        column("glasses", gap("yes", "no", 0.01, 1.0)),
    )
    assert [name for name, _ in gaps(as_metrics(metrics), "head")] == ["age", "race", "hat", "glasses"]
    told = failures(as_metrics(metrics))["slices"]
    assert told.startswith("For `head`, age old is 10.0 points harder than age young (")
    assert "The test set also shows a gap by race. It is too small to settle whether there is a gap by" in told


def test_no_gap_at_all():
    assert failures(as_metrics(study(column("hat", gap("yes", "no", 0.2, 0.3)))))["slices"] == (
        "For `head`, the test set is too small to settle whether there is a gap by hat. The widest: hat yes is 20.0 "
        "points harder than hat no (95% interval 18.0 to 23.0; corrected p = 0.3), which chance alone may explain."
    )
    assert "no gap of `head` can be tested" in failures(as_metrics(study(column("hat", None))))["slices"]
    assert "slices" not in failures(as_metrics(study()))


def test_small_slices_are_named():
    values = [of_slice("0-9", 12), of_slice("10-19", 400)]
    said = "0-9 (12) has fewer than 30 images: read with care"
    assert small_slices(scores("age", values)) == f"{said}."
    assert small_slices(scores("age", [*values, values[1]])) == f"{said}, and left out of the largest gap."
    assert small_slices(scores("age", values[1:])) == ""


def test_calibration_is_grouped_by_its_verdict():
    metrics = study(arms=("head", "all", "Last"))
    for arm, (sure, right) in {"head": (0.95, 0.9), "all": (0.905, 0.9), "Last": (0.99, 0.9)}.items():
        metrics["arms"][arm]["calibration"] = calibration(sure, right)
    assert failures(as_metrics(metrics))["calibration"] == (
        "Overconfident on average: `head` (95.0% sure, 90.0% right) and `Last` (99.0% sure, 90.0% right); "
        "even on average: `all` (90.5% sure, 90.0% right). The calibration error is more than chance explains for "
        "`head` (0.100; by chance 0.010, seldom above 0.020), `all` (0.100; by chance 0.010, seldom above 0.020) and "
        "`Last` (0.100; by chance 0.010, seldom above 0.020). No temperature is used: fitted on others."
    )
    metrics["arms"]["all"]["calibration"]["ece_limit"] = 0.1
    assert "It may be chance alone for `all` (0.100; by" in failures(as_metrics(metrics))["calibration"]
    metrics["arms"]["head"]["calibration"] = calibration(0.8, 0.9)
    assert failures(as_metrics(metrics))["calibration"].startswith("Underconfident on average: `head`")


@pytest.mark.parametrize(
    ("errors", "of"),
    [((0.05, 0.02), "`head` and `all`"), ((0.2, 0.02), "`all`, not of `head`"), ((0.1, 0.2), "no arm")],
)
def test_what_temperatures_do_is_told(errors, of):
    metrics = study(arms=("head", "all"))
    for arm, after in zip(metrics["arms"], errors, strict=True):
        metrics["arms"][arm]["calibration"] = calibration(0.9, 0.9, after)
    told = f"A temperature, fitted on others, lowers the calibration error on test of {of}."
    assert failures(as_metrics(metrics))["calibration"].endswith(told)
    metrics["arms"]["third"] = {**metrics["arms"]["head"], "calibration": calibration(0.9, 0.9)}
    assert failures(as_metrics(metrics))["calibration"].endswith(f"{told} None is used for `third`: fitted on others.")


def test_intervals_of_small_test_sets_are_called_narrow():
    metrics = study()
    assert narrow(as_metrics(metrics)) == ""
    metrics["splits"] = {"test": 60}
    assert narrow(as_metrics(metrics)).startswith(
        "With 60 test images, the intervals of precision, recall and F1 are somewhat too"
    )


def test_agreement():
    found = {
        "all_right": 800,
        "none_right": 1,
        "only_right": {"head": 3, "all": 40},
        "only_wrong": {"head": 1, "all": 2},
    }
    assert failures(as_metrics(study(agreement=found)))["agreement"] == (
        "Every arm is right on 800 of 1,000 test images and none on 1. `all` is right on 40 images where all "
        "other arms are wrong, the most of any arm."
    )
    found["only_right"] = {"head": 3, "all": 3}
    assert failures(as_metrics(study(agreement=found)))["agreement"].endswith(
        "`head` and `all` are each right on 3 images where all other arms are wrong."
    )
    found["only_right"] = {"head": 0, "all": 0}
    assert failures(as_metrics(study(agreement=found)))["agreement"].endswith(
        "There is no image on which a single arm is right and all others are wrong."
    )
    assert "agreement" not in failures(as_metrics(study(agreement=found, arms=("head",))))


def test_label_errors():
    found = {"count": 1, "checked": 6000, "method": "a probe, out of fold"}
    told = failures(as_metrics(study(label_errors=found)))["label_errors"]
    assert told.startswith("1 of 6,000 labels looks wrong. A person should decide")
    assert told.endswith("They were checked by a probe, out of fold.")
    assert failures(as_metrics(study(label_errors=found | {"count": 0})))["label_errors"].startswith(
        "None of 6,000 labels look wrong. They were"
    )


def test_limits_of_a_plain_study():
    flattered = {"metric": "accuracy", "expected": 0.88}
    told = limits(as_metrics(study(verdict=flattered)))
    assert list(told) == ["New images", "Test set", "Seeds", "Choice"]
    assert "flatters `all` by about 2.0 points: on new ones expect 88.0%." in told["Choice"]
    assert "images like those of shapes/" in told["New images"]
    comparison = {"arms": ["all", "head"], "difference": 0.01, "interval": [-0.01, 0.03], "p_holm": 0.4}
    told = limits(as_metrics(study(comparisons=[comparison | {"images_needed": 9000}])))
    assert told["Test set"] == "1,000 test images cannot tell `all` from `head`; that is no proof that they are alike."
    assert "Choice" not in limits(as_metrics(study(arms=("head",), verdict=flattered)))


def test_whom_a_model_serves_worse_or_why_that_is_not_known():
    told = harm(as_metrics(study(column("age", gap("0-9", "20-29", 0.123, 0.00001)), column("camera", None))))
    assert told.startswith("For `head`: age 0-9 is 12.3 points harder than age 20-29 (")
    unknown = "so this study cannot say whom its models serve worse. Test on more images before"
    few = [of_slice("a", 29), of_slice("b", 40), of_slice("c", 3)]
    told = harm(as_metrics(study(column("site", None, few))))
    assert told.startswith(f"No column has two slices of 30 test images or more, {unknown}")
    assert harm(as_metrics(study())).startswith(
        "This study has no column to slice by, so it cannot say whom its models serve worse"
    )


def test_leak():
    found = {"accuracy": 0.943, "accuracy_grouped": 0.852, "effect": 0.091, "interval": [0.05, 0.13], "method": "probe"}
    told = (
        "44 of 1,000 test images have a duplicate in another split. A linear probe is right on 94.3% as they are split "
        "and on 85.2% where duplicates stay together, a difference of 9.1 points (95% interval 5.0 to 13.0){}; every "
        "accuracy here is as they are split."
    )
    assert leak(as_metrics(study(audit={"leaked": 44, "leak": found}))) == told.format("")
    told = told.replace("5.0 to", "−1.0 to")
    assert leak(as_metrics(study(audit={"leaked": 44, "leak": found | {"interval": [-0.01, 0.13]}}))) == told.format(
        " that chance may explain"
    )
    assert leak(as_metrics(study(audit={"leak": None}))) == ""


def test_findings_come_by_severity():
    found = [{"severity": name, "what": name} for name in ("note", "error", "warning")]
    assert [it.what for it in findings(as_metrics(study(audit={"findings": found})))] == ["Error.", "Warning.", "Note."]


def test_sizes():
    found = {"images": 2008, "sizes": {name: [64, 32] for name in ("smallest", "median", "largest")}}
    assert sizes(as_metrics(study(audit=found))) == "2,008 images, all of 64 × 32 pixels."
    found["sizes"]["largest"] = [900, 700]
    assert sizes(as_metrics(study(audit=found))).endswith(
        "the median of 64 × 32 pixels, the largest of 900 × 700 pixels."
    )


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({}, []),
        ({"recipe": "emoji-people"}, ["emoji-people"]),
        ({"classes": ["Female", "male"]}, ["Female", "male"]),
        ({"classes": ["mango", "humane"]}, []),
        ({"slices": [column("age", None), column("camera", None)]}, ["age"]),
        ({"data": {"group": "person_id"}}, ["person_id"]),
    ],
)
def test_people_are_known_by_whole_words(changed, names):
    assert people(as_metrics(study() | changed)) == names
