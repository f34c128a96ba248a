"""The repeats of a study, on other draws of the split, in numbers."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thaw.cache.arrays import key_of
from thaw.data.repeats import drawn_parts, repeat_seed
from thaw.data.splits import Splits, group_codes
from thaw.record import Record
from thaw.run.results import StudyResult
from thaw.scoring.contributions import contributions
from thaw.scoring.repeats import Resampled, Variances, resampled, variances
from thaw.scoring.statistics import Codes


class Draw(Record):
    """A draw of the splits."""

    seed: int
    """Its `data.seed`; that of the first is the recipe's."""
    splits: str
    """A digest of which image is in which split."""
    train: int
    """Images that the final training sees."""
    test: int
    """Test images."""


class ArmRepeats(Record):
    """An arm over the draws."""

    scores: list[float]
    """For each draw the verdict's metric of one model, that of the first seed, on its test images."""
    mean: float
    """Their mean."""
    variances: Variances
    """Where their variance comes from."""


class PairRepeats(Record):
    """The best arm's score minus that of another arm, over the draws."""

    differences: list[float]
    """For each draw."""
    test: Resampled | None
    """The corrected resampled t-test; None where the test images are the same in every draw."""
    variances: Variances
    """Where the variance of the difference comes from."""


class Repeats(Record):
    """Every arm on several draws of the split; the first is the study."""

    drawn: list[Literal["validation", "test"]]
    """What differs between the draws besides the training images; nothing where both are splits of the source, and
    then there are no repeats."""
    draws: list[Draw]
    """The draws."""
    arms: dict[str, ArmRepeats]
    """Each arm."""
    pairs: dict[str, PairRepeats]
    """Each arm but the study's best, which they are compared with."""


def score_repeats(result: StudyResult, best: str) -> Repeats | None:
    """Score the arms of a study over the draws of the split.

    Parameters
    ----------
    result
        What the study found.
    best
        The arm that the others are compared with.

    Returns
    -------
    Repeats
        None where the recipe asks for none.
    """
    data, dataset = result.recipe.data, result.dataset
    if data.repeats == 1:
        return None
    drawn = drawn_parts(dataset.source, data)
    draws = [(data.seed, dataset.splits)]
    draws += [(repeat_seed(data.seed, number), splits) for number, splits in enumerate(dataset.repeats, 1)]
    if len(draws) == 1:
        return Repeats(drawn=[], draws=[_draw(result, *draws[0])], arms={}, pairs={})
    values = {arm: _values(result, arm) for arm in result.recipe.arms}
    groups, other = [_groups(result, splits) for _, splits in draws], "test" in drawn
    means = {arm: [float(of[0].mean()) for of in of_arm] for arm, of_arm in values.items()}
    told = [_draw(result, *draw) for draw in draws]
    ratio = float(np.mean([draw.test / draw.train for draw in told]))
    pairs = {}
    for arm in values:
        if arm != best:
            apart = [one - two for one, two in zip(means[best], means[arm], strict=True)]
            pairs[arm] = PairRepeats(
                differences=apart,
                test=resampled(apart, ratio) if other else None,
                variances=variances([values[best], values[arm]], groups, other),
            )
    arms = {
        arm: ArmRepeats(
            scores=means[arm], mean=float(np.mean(means[arm])), variances=variances([values[arm]], groups, other)
        )
        for arm in values
    }
    return Repeats.model_validate({"drawn": drawn, "draws": told, "arms": arms, "pairs": pairs})


def _values(result: StudyResult, arm: str) -> list[NDArray[np.float64]]:
    """For each draw what each test image adds to the verdict's metric, (seeds, n); one seed but in the first."""
    metric, labels = result.recipe.verdict.metric, result.dataset.source.labels
    own = [contributions(metric, result.test_labels(), one.logits) for one in result.trials()[arm]]
    found = [np.stack(own)]
    again = [one.logits for one in result.repeats if one.record.arm == arm]
    for splits, logits in zip(result.dataset.repeats, again, strict=True):
        found.append(contributions(metric, labels[splits.test], logits)[None])
    return found


def _groups(result: StudyResult, splits: Splits) -> Codes | None:
    codes = group_codes(result.dataset.source, result.recipe.data)
    return None if codes is None else np.unique(codes[splits.test], return_inverse=True)[1]


def _draw(result: StudyResult, seed: int, splits: Splits) -> Draw:
    both = len(splits.validation) if result.recipe.train.refit == "train+validation" else 0
    key = key_of(**{split: rows.tolist() for split, rows in splits.rows().items()})
    return Draw(seed=seed, splits=key, train=len(splits.train) + both, test=len(splits.test))
