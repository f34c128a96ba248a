"""thaw.Classifier keeps scikit-learn's conventions, and is an arm of a study under another name."""

from typing import Any

from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import thaw

TINY: dict[str, Any] = {
    "backbone": "timm/test_resnet",
    "weights": "random",
    "train": "all",
    "size": 16,
    "epochs": 1,
    "learning_rates": (1e-2,),
    "precision": "fp32",
    "device": "cpu",
    "settings": {"cache.activations": "off"},
}
LEARNS = {"epochs": 4, "batch_size": 32}
"""Enough to tell the blobs of `check_classifiers_train` apart."""
EXCEPTIONS = {
    "check_methods_subset_invariance": "wants probabilities equal to 1e-7 whatever the batch; fp32 kernels round "
    "differently at another batch size, see the test of batches below",
    "check_array_api_input": "needs the environment variable SCIPY_ARRAY_API, and images come as numpy arrays",
}


@parametrize_with_checks([thaw.Classifier(**TINY)], expected_failed_checks=lambda _: EXCEPTIONS)
def test_scikit_learn_finds_its_conventions(estimator: Any, check: Any) -> None:
    if check.func.__name__ == "check_classifiers_train":
        estimator = clone(estimator).set_params(**LEARNS)
    check(estimator)
