"""scikit-learn estimators of globally optimal two-layer ReLU networks; the only module here that needs scikit-learn at import.

from twolayer.estimator import ConvexReLUClassifier
model = ConvexReLUClassifier(beta=0.1).fit(X, y)
model.certificate_      # objective, lower bound, relative gap, cone violation
"""

import warnings
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data

from twolayer.certificate import Certificate
from twolayer.convex.admm import ADMM
from twolayer.convex.patterns import enumerate_patterns, sample_patterns
from twolayer.convex.program import ConvexProgram
from twolayer.data import Preparation, Rows, check_data, fit_preparation
from twolayer.network import Network
from twolayer.units import InUnits, units_of

Array = NDArray[np.float64]


class _ConvexReLU(BaseEstimator):
    """What both estimators share; attributes that end in an underscore appear with `fit`."""

    network_: Network
    preparation_: Preparation
    certificate_: Certificate
    n_iter_: int
    n_features_in_: int

    def _solve(
        self, x: Array, y: Array, loss: Literal["squared", "logistic", "hinge"], settings: dict[str, Any]
    ) -> None:
        """Fit on checked rows ``x [n, d]`` and targets, or labels -1 and 1, ``y [n]``."""
        rows, targets = torch.tensor(x), torch.tensor(y)
        self.preparation_ = fit_preparation(
            rows, standardise=settings["standardise"], n_components=None, has_bias=settings["bias"]
        )
        prepared = self.preparation_(rows)
        check_data(prepared, targets, settings["beta"], loss)
        units = units_of(Rows(prepared, targets), loss)
        x_unit, y_unit = units.normalised(Rows(prepared, targets))
        if settings["n_patterns"] == "all":
            patterns = enumerate_patterns(x_unit)
        else:
            seed = int(check_random_state(settings["random_state"]).randint(2**31 - 1))
            patterns = sample_patterns(x_unit, settings["n_patterns"], torch.Generator().manual_seed(seed))
        program = ConvexProgram(x_unit, y_unit, patterns, beta=units.beta(settings["beta"]), loss=loss)
        admm = ADMM(program, tolerance=settings["tol"])
        while admm.step_number < settings["max_iter"] and admm.certificate.relative_gap > settings["tol"]:
            admm.step()
        told = InUnits(admm, units)
        self.network_, self.certificate_, self.n_iter_ = told.network(), told.certificate, admm.step_number
        if self.certificate_.relative_gap > settings["tol"]:
            warnings.warn(
                f"relative gap {self.certificate_.relative_gap:.1e} after {self.n_iter_} iterations, tol is {settings['tol']:g}; "
                "raise max_iter, beta or tol",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _output(self, X: Any) -> Array:
        check_is_fitted(self)
        rows: Any = validate_data(self, X, reset=False, dtype=np.float64)
        return self.network_(self.preparation_(torch.tensor(rows))).numpy()


class ConvexReLUClassifier(ClassifierMixin, _ConvexReLU):
    """Two-class two-layer ReLU network, globally optimal over its activation patterns (Pilanci and Ergen 2020).

    Args:
        beta: strength of the regularisation beta/2 (|hidden|^2 + |output|^2), more than 0; the loss is a sum over rows.
        loss: logistic or hinge.
        n_patterns: activation patterns to sample, or "all" to enumerate them, which is exact (for small rank).
        bias: give neurons a bias.
        standardise: give columns mean zero and variance one; constant columns are left out.
        tol: relative duality gap to reach.
        max_iter: ADMM iterations at most.
        random_state: of the patterns.
    """

    classes_: NDArray[Any]

    def __init__(
        self,
        beta: float = 0.1,
        *,
        loss: Literal["logistic", "hinge"] = "logistic",
        n_patterns: int | Literal["all"] = 50,
        bias: bool = True,
        standardise: bool = True,
        tol: float = 1e-4,
        max_iter: int = 3200,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.beta, self.loss, self.n_patterns, self.bias = beta, loss, n_patterns, bias
        self.standardise, self.tol, self.max_iter, self.random_state = standardise, tol, max_iter, random_state

    def fit(self, X: Any, y: Any) -> "ConvexReLUClassifier":
        """From ``X [n, d]`` and labels ``y [n]`` of two classes. Raises ValueError for other labels, NaN, beta <= 0."""
        checked: Any = validate_data(self, X, y, dtype=np.float64)
        rows, labels = checked
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        if self.loss not in ("logistic", "hinge"):
            raise ValueError(f"loss is {self.loss!r}; allowed are logistic and hinge")
        if len(self.classes_) > 2:
            raise ValueError(
                f"Only binary classification is supported. The type of the target is {type_of_target(labels)}: y holds "
                f"{len(self.classes_)} classes"
            )
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class only ({self.classes_[0]}); a classifier needs two classes")
        signed = np.where(labels == self.classes_[1], 1.0, -1.0)
        self._solve(rows, signed, self.loss, self.get_params())
        return self

    def decision_function(self, X: Any) -> Array:
        """Output of the network, ``[n]``: positive for ``classes_[1]``."""
        return self._output(X)

    def predict(self, X: Any) -> NDArray[Any]:
        """Class of every row, ``[n]``."""
        is_second = self.decision_function(X) > 0
        return self.classes_[is_second.astype(int)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


class ConvexReLURegressor(RegressorMixin, _ConvexReLU):
    """Two-layer ReLU network of least squares, globally optimal over its activation patterns; arguments as the classifier's."""

    def __init__(
        self,
        beta: float = 0.1,
        *,
        n_patterns: int | Literal["all"] = 50,
        bias: bool = True,
        standardise: bool = True,
        tol: float = 1e-4,
        max_iter: int = 3200,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.beta, self.n_patterns, self.bias, self.standardise = beta, n_patterns, bias, standardise
        self.tol, self.max_iter, self.random_state = tol, max_iter, random_state

    def fit(self, X: Any, y: Any) -> "ConvexReLURegressor":
        """From ``X [n, d]`` and targets ``y [n]``. Raises ValueError for NaN and beta <= 0."""
        checked: Any = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        rows, targets = checked
        self._solve(rows, targets.astype(np.float64), "squared", self.get_params())
        return self

    def predict(self, X: Any) -> Array:
        """Output of the network, ``[n]``."""
        return self._output(X)
