"""The analysis says what the numbers say, in each of the cases it words differently."""

import numpy as np
import pytest

from helpers.small_metrics import as_metrics, completed
from helpers.synthetic_run import add_statistics
from thaw.report import ranking
from thaw.report.analysis import analysis
from thaw.report.limits import limits
from thaw.report.verdict import headline, reasons
from thaw.text import SPACE, about


def arm(right, *, images=1000, seeds=None, curve=(0.8, 0.9, 0.905), edge=None, train="head", weights="W", trained=10):
    """What metrics.json holds of an arm that is right on `right` images of two classes, by seed if a list."""
    rights = right if isinstance(right, list) else [right]
    trials = [
        {
            "seed": seed,
            "learning_rate": 1e-3,
            "edge": edge,
            "epochs": [{"loss": 0.5, "accuracy": value} for value in curve],
            "test": {"accuracy": one / images, "confusion": confusion(one, images)},
            "seconds": {"prepare": 1.5, "search": 1.0, "train": 2.0, "test": 0.1},
        }
        for seed, one in enumerate(rights)
    ]
    size = {"total": 57_012_034, "trainable": trained}
    return {"weights": weights, "train": train, "parameters": size, "trials": trials, **trials[0]}


def confusion(right, images):
    """Half of the images of each class; of the mistakes, three in four take the first class for the second."""
    wrong = images - right
    first = round(0.75 * wrong)
    return cells([[images // 2 - first, first], [wrong - first, images - images // 2 - (wrong - first)]])


def cells(matrix):
    return [[true, predicted, images] for true, row in enumerate(matrix) for predicted, images in enumerate(row)]


def study(images=1000, classes=("cat", "dog"), cost="none", **arms):
    """What metrics.json holds of a study in which each arm is mistaken about images of its own."""
    best = max(arms, key=lambda name: np.mean([trial["test"]["accuracy"] for trial in arms[name]["trials"]]))
    splits = {"train": 8000, "test": images}
    model = {"precision": "fp32"}
    metrics = completed({"best": best, "classes": list(classes), "splits": splits, "arms": arms, "model": model})
    labels = np.repeat([0, 1], [images // 2, images - images // 2])
    random = np.random.default_rng(0)
    predicted = {
        name: np.stack([guesses(labels, trial["test"]["confusion"], random) for trial in it["trials"]])
        for name, it in arms.items()
    }
    add_statistics(metrics, labels, predicted, cost=cost)
    return metrics


def costed(cost, images=1000, **arms):
    """The same with the verdict's `cost`."""
    return study(images, cost=cost, **arms)


def guesses(labels, cells, random):
    predicted = labels.copy()
    for true, other, images in cells:
        if true != other:
            predicted[random.choice(np.flatnonzero(labels == true), images, replace=False)] = other
    return predicted


def told(metrics):
    return " ".join(analysis(as_metrics(metrics)).values()).replace(SPACE, " ")


def verdict(metrics):
    return reasons(as_metrics(metrics)).replace(SPACE, " ")


def test_leads_are_sorted_and_counted():
    metrics = study(head=arm(918), tail=arm(943), scratch=arm(836))
    metrics = as_metrics(metrics)
    found = ranking.leads(metrics)
    assert [lead.over for lead in found] == ["head", "scratch"]
    assert found[0].gap == pytest.approx(0.025)
    assert found[0].images == pytest.approx(25)
    assert {(lead.ahead, lead.over) for lead in ranking.pairs(metrics)} == {
        *(("tail", "head"), ("tail", "scratch"), ("head", "scratch"))
    }
    assert all(lead.interval[0] < lead.gap < lead.interval[1] for lead in ranking.pairs(metrics))


def test_a_clear_lead():
    metrics = study(head=arm(900), tail=arm(960))
    assert headline(as_metrics(metrics)) == (
        "Use `tail`: right on 96.0% of 1,000 test images; on new images expect about 96.0%."
    )
    said = verdict(metrics)
    assert said.startswith(
        "`tail` is the best of the 2 models with a probability of more than 99%. `head` is 6.0 points behind (95% "
    )
    assert said.endswith(" points). One seed: this is about these models, not about these ways of training.")
    text = told(metrics)
    assert "`tail` labels 96.0% of the 1,000 test images correctly, which puts it ahead of `head` by 6.0 points" in text
    assert "95% Wilson interval of its accuracy is 94.6% to 97.0%." in text
    assert "The test set tells it apart from `head` (95% interval" in text
    assert "tell them apart" not in text
    assert "with one seed, so how much chance in training adds to that was not measured" in text
    assert "The rule: the best arm by accuracy. It recommends `tail`." in text


def test_a_lead_within_noise_says_what_the_next_would_cost():
    metrics = study(head=arm(900), tail=arm(905))
    needed, own = metrics["comparisons"][0]["images_needed"], metrics["verdict"]["arms"]
    assert needed > 10_000
    said = verdict(metrics)
    assert f"with a probability of {100 * own['tail']['probability_best']:.0f}%. `head` is 0.5 points behind" in said
    regret = f"{100 * own['head']['regret']:.1f} points"
    assert f"which may be chance: who uses it instead loses {regret} on average. About {about(needed)} " in said
    expected = metrics["verdict"]["expected"]
    assert 0.89 < expected < 0.905
    flattery = limits(as_metrics(metrics))["Choice"]
    assert f"flatters `tail` by about {100 * (0.905 - expected):.1f} points: on new ones expect" in flattery
    assert f"on new images expect about {100 * expected:.1f}%." in headline(as_metrics(metrics))
    assert "The test set cannot tell it apart from `head`" in told(metrics)
    assert flattery not in said


def test_a_cheaper_arm_is_undecided_until_it_is_shown_to_do_as_well():
    metrics = costed("trained parameters", head=arm(900, trained=8194), tail=arm(905, trained=16_789_506))
    own = metrics["verdict"]["arms"]["head"]
    assert metrics["recommended"] == "tail"
    assert (
        "`head` trains 8,194 parameters against 16.8 M, but whether it loses more than 1.0 point is undecided: "
        f"choosing it would cost {100 * own['regret']:.1f} points on average; about {about(own['images_needed'])} "
        "test images would settle it." in verdict(metrics)
    )
    shown = costed("trained parameters", head=arm(900, trained=8194), tail=arm(960, trained=16_789_506))
    assert "Every arm that costs less in trained parameters is shown to lose more than 1.0 point." in verdict(shown)
    cheap = costed("train seconds", head=arm(960), tail=arm(900))
    assert "No arm costs less to train." in verdict(cheap)


def test_a_cheaper_arm_that_is_shown_to_do_as_well_is_named():
    metrics = costed("trained parameters", 20_000, head=arm(18_000, images=20_000), tail=arm(18_100, images=20_000))
    metrics["arms"]["tail"]["parameters"]["trainable"] = 16_789_506
    metrics["recommended"] = "head"
    metrics["verdict"]["arms"]["tail"]["cost"] = 16_789_506
    assert headline(as_metrics(metrics)) == (
        "Use `head`: right on 90.0% of 20,000 test images, and shown to lose no more than 1.0 point against `tail`, "
        "the best."
    )
    assert "`head` trains 10 parameters against 16.8 M, and loses no more than 1.0 point with a certainty of 95%." in (
        verdict(metrics)
    )


def test_arms_that_learned_nothing_are_called_that():
    nothing = study(head=arm(495), tail=arm(500))
    assert headline(as_metrics(nothing)) == (
        "No arm has learned anything: always answering the commonest class gives 50.0%, and the best, `tail`, is right "
        "on 50.0% of 1,000 test images."
    )
    assert headline(as_metrics(study(head=arm(515), tail=arm(520)))).startswith("No arm is shown to have learned any")
    one = study(head=arm(505), tail=arm(900))
    assert "`head` has learned nothing that shows: always answering the commonest class gives 50.0%." in verdict(one)


def test_each_pair_in_doubt_has_its_number_of_images():
    metrics = study(a=arm(900), b=arm(903), c=arm(905))
    first, second = (metrics["comparisons"][place]["images_needed"] for place in (1, 2))
    each = f"{about(second)} test images for `b` and {about(first)} test images for `a`"
    assert f"To tell them apart would take about {each}, if they are as far apart as they seem." in told(metrics)


def test_groups_too_few_for_any_difference_are_told():
    metrics = study(tail=arm(950), head=arm(600, trained=5))
    labels = np.repeat([0, 1], 500)
    predicted = {
        name: np.stack([guesses(labels, it["test"]["confusion"], np.random.default_rng(1))])
        for name, it in metrics["arms"].items()
    }
    add_statistics(metrics, labels, predicted, "person", groups=np.arange(1000) % 5)
    assert metrics["recommended"] == "tail"
    few = (
        "the 1,000 test images share 5 values of person, too few to show any difference between arms, however large; "
        "it takes at least 6."
    )
    assert f"`tail` is ahead of `head` by 35.0 points, but {few}" in verdict(metrics)
    metrics["data"]["source"] = "pictures"
    assert limits(as_metrics(metrics))["Test set"] == few.capitalize()


def test_a_tie_is_called_one():
    metrics = study(head=arm(900), tail=arm(900, trained=5))
    assert "`tail` scores the same." in verdict(metrics)
    assert "test images correctly, and so does `tail`." in told(metrics)
    assert "tell them apart" not in told(metrics)


def test_a_single_arm_has_nothing_to_compare_with():
    metrics = study(head=arm(900))
    assert headline(as_metrics(metrics)) == "Use `head`: right on 90.0% of 1,000 test images."
    assert verdict(metrics).startswith("The only arm of this study. One seed: ")
    assert "nothing to compare it with" in told(metrics)


def test_several_seeds_are_compared_seed_by_seed():
    metrics = study(head=arm([900, 920, 910]), tail=arm([930, 915, 940]))
    assert "`tail` is the best of the 2 ways of training with a probability of" in verdict(metrics)
    assert verdict(metrics).endswith("Mean of 3 seeds; images and seeds both count.")
    assert "standard deviation of 1.0 point for `head` and 1.3 points for `tail`" in told(metrics)
    assert "`tail` is ahead of `head` in accuracy with 2 of the 3 seeds" in told(metrics)


def test_many_arms_name_the_closest_and_the_last():
    text = told(study(a=arm(950), b=arm(940), c=arm(930), d=arm(920), e=arm(910)))
    assert "ahead of `b` by 1.0 point (10 images) and `e` by 4.0 points (40 images)" in text


def test_pretraining_and_training_everything_are_weighed():
    arms = {
        "scratch": arm(830, weights="random", train="all"),
        "head": arm(910),
        "whole": arm(940, train="all"),
    }
    text = told(study(**arms))
    assert "Starting from pretrained weights gains 11.0 points (`whole` against `scratch`)" in text
    assert "Training every layer (`whole`) gives 3.0 points more than training the head alone" in text
    worse = told(study(**arms | {"whole": arm(880, train="all")}))
    assert "Training every layer (`whole`) gives 3.0 points less than training the head alone" in worse
    reverse = told(study(scratch=arm(930, weights="random", train="all"), head=arm(910)))
    assert (
        "Pretrained weights do not help here: `scratch` is 2.0 points ahead of `head` without, if there is a "
        "difference: the test set cannot tell." in reverse
    )
    level = told(study(scratch=arm(930, weights="random", train="all"), head=arm(930)))
    assert "Pretrained weights do not help here: `scratch` is as accurate without as `head`." in level


def test_convergence_tells_settled_rising_and_falling_apart():
    metrics = study(
        settled=arm(900, curve=(0.8, 0.899, 0.9, 0.901)),
        at_once=arm(905, curve=(0.9, 0.9, 0.9, 0.9)),
        rising=arm(910, curve=(0.7, 0.8, 0.85, 0.9)),
        falling=arm(920, curve=(0.9, 0.93, 0.95, 0.92)),
    )
    text = told(metrics)
    assert (
        "Over 4 epochs, training accuracy is within a point of its last value "
        "for `at_once` from epoch 1 and `settled` from epoch 2." in text
    )
    assert "Still gaining in the last epoch: `rising` (5.0 points); more epochs may help." in text
    assert "Losing in the last epoch: `falling` (3.0 points)" in text
    assert "A single epoch" in told(study(head=arm(900, curve=(0.9,))))


def test_overfitting_and_edges_are_called_out():
    text = told(study(head=arm(900, edge="highest"), tail=arm(920, curve=(0.9, 0.995), edge="lowest")))
    assert "sign of overfitting: `tail` (99.5% against 92.0%)" in text
    assert "highest learning rate it tried for `head`; a still higher one, not tried, may do better" in text
    assert "lowest learning rate it tried for `tail`; a still lower one" in text
    plain = told(study(head=arm(900), tail=arm(920)))
    assert "overfitting" not in plain
    assert "grid" not in plain


def test_what_did_not_train_to_the_end_is_told():
    metrics = study(head=arm([900, 905]), tail=arm(950))
    metrics["arms"]["head"]["trials"][1] |= {
        "stopped": "the loss became infinite in epoch 1, so it stays",
        "epochs": [],
    }
    metrics["arms"]["tail"]["trials"][0]["precision"] = "fp32"
    metrics["model"] = {"precision": "bf16"}
    text = told(metrics)
    assert "`head`, seed 1, stopped early: the loss became infinite in epoch 1, so it stays." in text
    assert "`tail` was trained in fp32, since its loss diverged in bf16." in text


def test_mistakes_of_two_classes_are_told_both_ways():
    text = told(study(head=arm(900), tail=arm(960)))
    assert (
        "In its 40 mistakes, `tail` takes cat for dog (30 times, 6.0% of cat) and dog for cat (10 times, 2.0% of dog)."
        in text
    )
    assert "The commonest mistake of `head` is to take cat for dog (75 times, the reverse 25 times)." in text
    metrics = study(head=arm(900))
    metrics["arms"]["head"]["trials"][0]["test"]["confusion"] = cells([[500, 0], [100, 400]])
    assert "`head` takes dog for cat (100 times, 20.0% of dog) and cat for dog (never, 0.0% of cat)." in told(metrics)


def test_mistakes_of_many_classes_name_the_pair_and_the_hardest():
    metrics = study(100, ("a", "b", "c"), head=arm(90, images=100))
    metrics["arms"]["head"]["trials"][0]["test"]["confusion"] = cells([[40, 6, 0], [1, 39, 0], [1, 2, 11]])
    text = told(metrics)
    assert "In its 10 mistakes, `head` most often takes a for b (6 times, 13.0% of a)" in text
    assert "the hardest class is c, of which it misses 21.4%" in text


def test_no_mistake_at_all():
    assert "`head` makes no mistake on the test set." in told(study(head=arm(1000), tail=arm(900)))
    assert "`tail` makes no mistake" not in told(study(head=arm(1000), tail=arm(1000)))


def test_cost_is_told_for_every_arm():
    text = told(study(head=arm(900, trained=8194), tail=arm(960, trained=16_789_506)))
    assert "`tail` trains 16.8 M of the network's 57.0 M parameters in 2.0 s, `head` 8,194 in 2.0 s." in text
    assert "Building the networks, and computing once what is frozen, took another 3.0 s." in text


def test_each_further_point_has_its_cost():
    arms = {
        "head": arm(900, trained=8000),
        "tail": arm(960, trained=14_000),
        "whole": arm(962, trained=24_000),
        "poor": arm(700, trained=30_000),
    }
    for name, spent in (("tail", 8.0), ("whole", 7.9)):
        arms[name]["trials"][0]["seconds"]["train"] = spent
        arms[name]["seconds"] = {"search": 1.0, "train": spent}
    text = told(study(**arms))
    assert (
        "Going from `head` to `tail` (6.0 points) each point costs 1,000 more trained parameters and 1.0 s more" in text
    )
    assert (
        "; from `tail` to `whole` (0.2 points) each point costs 50.0 k more trained parameters and 0.50 s less of "
        "search and training, if there is a difference: the test set cannot tell." in text
    )
    assert "`poor` (" not in text.partition("Going")[2]


def test_groups_are_named():
    metrics = study(head=arm(900))
    metrics["data"]["group"] = "person"
    assert "with images that share a value of person counted as alike as they turned out" in told(metrics)
