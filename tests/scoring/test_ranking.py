"""Areas under curves equal scikit-learn's; the influence of an image is what a little more weight on it adds."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from thaw.scoring.ranking import rank_class


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.floats(0.1, 0.9), st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_areas_and_influence_are_scikit_learns(images: int, share: float, digits: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    positive = random.random(images) < share
    assume(0 < positive.sum() < images)
    scores = np.round(random.normal(size=images) + positive, digits)
    found = rank_class(positive, scores)
    for measured, area, influence in (
        (roc_auc_score, found.auroc, found.auroc_influence),
        (average_precision_score, found.average_precision, found.average_precision_influence),
    ):
        assert np.isclose(area, measured(positive, scores))
        for image in range(images):
            heavier = np.ones(images)
            heavier[image] += 1e-5
            derivative = (measured(positive, scores, sample_weight=heavier) - area) / 1e-5
            assert np.isclose(influence[image], derivative, atol=1e-4)
        assert np.isclose(influence.sum(), 0)
