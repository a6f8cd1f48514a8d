"""The scikit-learn estimators, by scikit-learn's own checks."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from twolayer.estimator import ConvexReLUClassifier, ConvexReLURegressor


@parametrize_with_checks([ConvexReLUClassifier(n_patterns=10), ConvexReLURegressor(n_patterns=10)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_checks(estimator: BaseEstimator, check):
    check(estimator)


def xor_rows(n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((n, 2))
    return x, np.where(x[:, 0] * x[:, 1] > 0, "same", "different")


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_learns_what_no_linear_model_has(loss):
    x, y = xor_rows()
    model = ConvexReLUClassifier(beta=0.1, loss=loss).fit(x, y)
    assert model.certificate_.relative_gap <= 1e-4
    assert model.score(x, y) > 0.95
    assert set(model.predict(x)) == {"same", "different"}
    np.testing.assert_array_equal(model.decision_function(x) > 0, model.predict(x) == "same")


def test_all_patterns_are_at_least_as_good_as_sampled_ones():
    x, _ = xor_rows(24)
    y = x[:, 0] * x[:, 1]
    exact = ConvexReLURegressor(n_patterns="all", bias=False, tol=1e-6).fit(x, y)
    sampled = ConvexReLURegressor(n_patterns=5, bias=False, tol=1e-6).fit(x, y)
    assert exact.certificate_.objective <= sampled.certificate_.objective * (1 + 1e-6)


def test_tunes_in_a_grid_search():
    x, y = xor_rows()
    search = GridSearchCV(ConvexReLUClassifier(n_patterns=20), {"beta": [0.1, 100.0]}, cv=2).fit(x, y)
    assert search.best_params_ == {"beta": 0.1}


@pytest.mark.parametrize(
    ("settings", "y", "message"),
    [
        ({"beta": -1.0}, [0, 1, 0], "beta is -1.0; it must be more than 0"),
        ({"n_patterns": 0}, [0, 1, 0], "n_patterns is 0; at least one"),
        ({"loss": "squared"}, [0, 1, 0], "loss is 'squared'; allowed are logistic and hinge"),
        ({}, [0, 1, 2], "Only binary classification is supported"),
        ({}, [1, 1, 1], "y holds one class only"),
    ],
)
def test_bad_input_is_named(settings, y, message):
    with pytest.raises(ValueError, match=message):
        ConvexReLUClassifier(**settings).fit(np.eye(3), y)
