"""Studies of two-layer ReLU networks: on synthetic rows, a CSV file or activations; and grokking on XOR clusters."""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from hookpoints.corpus import CorpusConfig
from hookpoints.harvest import HarvestConfig
from hookpoints.labels import LabelConfig
from hookpoints.models import ModelConfig
from core.schema import Schema
from pipeline.studies.saes.study import RunConfig, Study
from twolayer.data import TaskName
from twolayer.config import LossName
from twolayer.losses import LOSSES
from twolayer.xor.descent import XORConfig

Fraction = Annotated[float, Field(gt=0, lt=1)]


class _Data(Schema):
    n_components: PositiveInt | None = None
    """Keep this many principal components of the rows, each of unit variance; null keeps every column."""
    standardise: bool = False
    """Give every column mean zero and variance one."""
    bias: bool = True
    """Append a column of ones, so that neurons have a bias."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the rows drawn or chosen."""


class SyntheticData(_Data):
    """Gaussian rows with a target that no linear function has."""

    source: Literal["synthetic"]
    """Drawn from `seed`."""
    task: TaskName
    """product (x_1 x_2), xor (the same on four clusters around (+-1, +-1)) or teacher (a random network)."""
    n_train: PositiveInt
    """Training rows."""
    n_held_out: PositiveInt = 1000
    """Rows for choosing beta, and again as many for testing."""
    d: Annotated[int, Field(ge=2)]
    """Features."""
    noise: NonNegativeFloat = 0.0
    """Standard deviation of the noise on the target."""


class CSVData(_Data):
    """Rows of a file."""

    source: Literal["csv"]
    """A CSV file with a header; every column but the target is a numeric feature."""
    path: str
    """The file."""
    target: str
    """Its column to predict; two values make two classes for logistic and hinge loss."""
    held_out_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    """Share of the rows for choosing beta, and again as much for testing."""
    standardise: bool = True
    """Give every column mean zero and variance one."""


class ActivationData(_Data):
    """Harvested activations, or SAE latents, with token-level labels: a probe."""

    source: Literal["activations"]
    """Harvested by this study, or shared with another one by `folder`."""
    folder: str | None = None
    """Where activations are; `<run_dir>/activations` by default. Studies may share one."""
    model: ModelConfig
    """`embedded: smollm2-135m`, `hub: <id>` or `local: <folder>`."""
    corpus: CorpusConfig
    """`embedded: python-docs`, `hub: <id>` or `files: [...]`."""
    harvest: HarvestConfig
    """What to read and how to store it."""
    hook_name: str | None = None
    """Which of the harvested hooks; the only one unless there are several."""
    sae: str | None = None
    """Folder of a trained SAE: its latents are probed in place of the activations."""
    labels: list[LabelConfig] = Field(min_length=1)
    """What is asked of a token; each label is a task of its own."""
    n_train: PositiveInt = 2000
    """Training rows, as many of either class; they come from other documents than the rows tested on."""
    n_held_out: PositiveInt = 2000
    """Rows at most for choosing beta (training documents left out of training), and for testing (held-out documents)."""
    n_components: PositiveInt | None = 32
    """Keep this many principal components of the rows, each of unit variance; null keeps every column."""


class ConvexMethod(Schema):
    """The convex program over activation patterns, by ADMM or RBCD with a polish."""

    method: Literal["convex"]
    """With a certificate."""
    patterns: Literal["sampled", "enumerated", "descent"] = "sampled"
    """enumerated is exact: every pattern that the rows have, for small rank. descent takes those of the neurons that gradient
    descent ends with, so that no network of that descent can be better; for many features."""
    n_patterns: PositiveInt = 50
    """Patterns to sample, or neurons to descend with."""
    solver: Literal["admm", "rbcd"] = "admm"
    """rbcd replaces the exact linear step by random block coordinate descent: less memory at large n."""


class SampledMethod(Schema):
    """The sampled convex program: fixed random neurons, trained output weights."""

    method: Literal["scp"]
    """Random directions."""
    n_samples: PositiveInt | None = None
    """Directions; null takes what the bound asks for."""
    violation: Fraction = 0.1
    """Share of all directions that may still lower the objective."""
    confidence: Fraction = 0.95
    """Probability with which the bound holds."""


class RobustMethod(Schema):
    """The convex program of l-infinity adversarial training."""

    method: Literal["robust"]
    """Against every perturbation inside a ball."""
    epsilon: NonNegativeFloat
    """Radius of the balls, in the units of the prepared rows."""
    n_patterns: PositiveInt = 50
    """Patterns to sample."""


class DescentMethod(Schema):
    """Gradient descent (Adam) on the non-convex objective."""

    method: Literal["gradient_descent"]
    """The baseline."""
    n_neurons: PositiveInt = 50
    """Width."""
    n_restarts: PositiveInt = 10
    """Random starts, side by side; the best is kept."""
    n_steps: PositiveInt = 2000
    """Length of the cosine schedule."""
    learning_rate: PositiveFloat = 0.02
    """At the start."""


class LinearMethod(Schema):
    """Ridge, logistic regression or a linear support vector machine (scikit-learn)."""

    method: Literal["linear"]
    """What a probe usually is."""


Method = ConvexMethod | SampledMethod | RobustMethod | DescentMethod | LinearMethod


class NetworkTrainConfig(Schema):
    """Which networks to train, and how."""

    loss: LossName
    """squared, logistic or hinge, summed over rows."""
    methods: list[Annotated[Method, Field(discriminator="method")]] = Field(min_length=1)
    """Each is trained at every beta with every seed."""
    betas: list[PositiveFloat] = Field(min_length=1)
    """Strengths of the regularisation; a path that starts from the largest."""
    seeds: list[int] = Field(default=[0], min_length=1)
    """Of sampled patterns, directions and starts."""
    tolerance: PositiveFloat = 1e-4
    """Relative gap, and cone violation, at which a convex solver stops."""
    max_steps: PositiveInt = 3200
    """Iterations after which it stops all the same."""
    checkpoint_every: PositiveInt = 500
    """Steps between checkpoints."""
    device: str = "auto"
    """Where to train."""


class NetworkEvalConfig(Schema):
    """How networks are measured."""

    epsilons: list[PositiveFloat] = Field(default=[])
    """Radii of the attacks (FGSM and PGD) on test rows, in the units of the prepared rows."""
    pgd_steps: PositiveInt = 40
    """Steps of PGD."""


class NetworkSpec(NamedTuple):
    """One network of a study."""

    task: str
    method: Method
    beta: float
    seed: int

    @property
    def family(self) -> str:
        """The method and what sets it apart."""
        match self.method:
            case ConvexMethod(patterns="enumerated", solver=solver):
                return f"convex-{solver}-enumerated"
            case ConvexMethod(patterns=patterns, n_patterns=n, solver=solver):
                return f"convex-{solver}-{'patterns' if patterns == 'sampled' else patterns}_{n}"
            case SampledMethod(n_samples=n, violation=violation, confidence=confidence):
                return f"scp-samples_{n}" if n else f"scp-violation_{violation:g}-confidence_{confidence:g}"
            case RobustMethod(epsilon=epsilon, n_patterns=n):
                return f"robust-epsilon_{epsilon:g}-patterns_{n}"
            case DescentMethod(n_neurons=n, n_restarts=restarts, n_steps=steps, learning_rate=rate):
                return f"gradient_descent-neurons_{n}-restarts_{restarts}-steps_{steps}-rate_{rate:g}"
            case LinearMethod():
                return "linear"

    @property
    def label(self) -> str:
        """The method, for people."""
        match self.method:
            case ConvexMethod(patterns=patterns, n_patterns=n, solver=solver):
                name = "Convex" if solver == "admm" else "Convex (RBCD)"
                counts = {
                    "enumerated": "all patterns",
                    "sampled": f"{n} patterns",
                    "descent": f"patterns of {n} trained neurons",
                }
                return f"{name}, {counts[patterns]}"
            case SampledMethod(n_samples=n, violation=violation):
                return f"Sampled (SCP), {n} neurons" if n else f"Sampled (SCP), violation {violation:g}"
            case RobustMethod(epsilon=epsilon, n_patterns=n):
                return f"Robust, radius {epsilon:g}, {n} patterns"
            case DescentMethod(n_neurons=n, n_restarts=restarts):
                return f"Gradient descent, {n} neurons, best of {restarts}"
            case LinearMethod():
                return "Linear"

    @property
    def network_id(self) -> str:
        """Folder name."""
        return f"{self.task}-{self.family}-beta_{self.beta:g}-seed_{self.seed}"


class NetworkStudy(Study):
    """A study of two-layer ReLU networks."""

    kind: Literal["networks"]
    """What is studied: saes, networks or xor."""
    data: Annotated[SyntheticData | CSVData | ActivationData, Field(discriminator="source")]
    """Rows and targets."""
    train: NetworkTrainConfig
    """Which networks to train, and how."""
    eval: NetworkEvalConfig = Field(default_factory=NetworkEvalConfig)
    """How networks are measured."""

    @model_validator(mode="after")
    def _fits_together(self) -> "NetworkStudy":
        ids = [spec.network_id for spec in self.specs()]
        twice = sorted({network_id for network_id in ids if ids.count(network_id) > 1})
        if twice:
            raise ValueError(f"the study describes the same network twice: {', '.join(twice)}")
        if isinstance(self.data, ActivationData) and not LOSSES[self.train.loss].is_classification:
            raise ValueError("train.loss is squared and labels are classes; use logistic or hinge")
        is_perturbed = self.eval.epsilons or any(isinstance(method, RobustMethod) for method in self.train.methods)
        if is_perturbed and self.data.bias:
            raise ValueError(
                "robust training and attacks (eval.epsilons) perturb every column, the ones that data.bias appends too; "
                "set data.bias: false"
            )
        return self

    @property
    def activations_path(self) -> Path:
        """The folder of the activations, for `data.source: activations`."""
        folder = self.data.folder if isinstance(self.data, ActivationData) else None
        return Path(folder).expanduser() if folder else self.run_path / "activations"

    @property
    def tasks(self) -> list[str]:
        """What is predicted."""
        match self.data:
            case SyntheticData(task=task):
                return [task]
            case CSVData(target=target):
                return [target]
            case ActivationData(labels=labels):
                return [label.name for label in labels]

    def specs(self) -> list[NetworkSpec]:
        """Every network, by task, method, seed and descending beta."""
        return [
            NetworkSpec(task, method, beta, seed)
            for task in self.tasks
            for method in self.train.methods
            for seed in self.train.seeds
            for beta in sorted(self.train.betas, reverse=True)
        ]


class XORTrainConfig(Schema):
    """Descents to run."""

    learning_rates: list[PositiveFloat] = Field(default=[1e-12], min_length=1)
    """Constant step sizes alpha, each with every seed."""
    n_seeds: PositiveInt = 20
    """Seeds of data and initial weights: 0, 1, ..."""
    n_steps: PositiveInt = 100
    """Steps of gradient descent."""
    method: Literal["gram", "plain"] = "gram"
    """gram works on inner products, plain on the weights; equal to rounding."""


class XOREvalConfig(Schema):
    """When networks are measured."""

    steps: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100])
    """Steps at which everything is measured; those past train.n_steps are left out, and the last step is always among them."""
    projection_steps: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 15])
    """Steps at which neurons are projected on the means."""


class XORStudy(Study):
    """Grokking on XOR clusters."""

    kind: Literal["xor"]
    """What is studied: saes, networks or xor."""
    data: XORConfig = Field(default_factory=XORConfig)
    """Clusters and network."""
    train: XORTrainConfig = Field(default_factory=XORTrainConfig)
    """Descents to run."""
    eval: XOREvalConfig = Field(default_factory=XOREvalConfig)
    """When networks are measured."""

    @property
    def measured_steps(self) -> list[int]:
        """In order."""
        wanted = {*self.eval.steps, *self.eval.projection_steps, self.train.n_steps}
        return sorted(step for step in wanted if step <= self.train.n_steps)

    def run_ids(self) -> list[tuple[str, float, int]]:
        """Id, learning rate and seed of every descent."""
        return [
            (f"rate_{rate:g}-seed_{seed}", rate, seed)
            for rate in self.train.learning_rates
            for seed in range(self.train.n_seeds)
        ]


AnyStudy = RunConfig | NetworkStudy | XORStudy
STUDIES: dict[str, type[AnyStudy]] = {"saes": RunConfig, "networks": NetworkStudy, "xor": XORStudy}
