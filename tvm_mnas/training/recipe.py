"""How a network is trained: recipes, one TOML file each in `recipes/`, and their learning rates step by step.

No torch here: a wrong recipe is told before anything heavy is imported.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import tomli_w

from tvm_mnas.errors import ConfigError
from tvm_mnas.resources import resource_directory

OPTIMIZERS = ("adamw", "rmsprop", "sgd")
SCHEDULES = ("cosine", "exponential", "constant")
PRECISIONS = ("float32", "bf16", "fp16")
FOCAL = "focal"
CLASS_LOSSES = ("hard-negative", FOCAL)
"""Of a detector's classes: Liu et al. 2016, section 2.2, and Lin et al. 2017."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained, for `steps` or for `epochs`: one of them is above 0, and so for the warm-up.

    `learning_rate` is that of batches of `reference_batch` images, and scaled in proportion for others; 0 takes it as
    it is. `rms_decay`, `momentum` and `epsilon` are TensorFlow's RMSProp's, `momentum` SGD's too. Weights decay by
    `weight_decay`, batch norms do not, and biases only if `decay_biases`. `batch_norm_decay` is how much of running
    statistics stays at a step, the paper's momentum: 1 minus torch's. `ema_decay` averages weights over steps, 0 does
    not. `zero_init_residual` begins each residual branch at zero. `crop_padding` is of images in memory. `precision`
    and `compile_network` make an accelerator faster. Gradients longer than `gradient_norm` are shortened to it, 0
    leaves them.

    Of detectors alone: classes are learnt by `class_loss`, boxes count `box_weight` times, and images are changed by
    `expansion`, `crops` and `colour` (`training.detection.augmentation.Augmentation`).

    Raises `ConfigError` where a value breaks a rule.
    """

    description: str = ""
    steps: int = 0
    epochs: float = 0.0
    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float = 0.01
    reference_batch: int = 0
    schedule: str = "cosine"
    warmup_steps: int = 0
    warmup_epochs: float = 0.0
    decay_factor: float = 0.97
    decay_epochs: float = 2.4
    rms_decay: float = 0.9
    momentum: float = 0.9
    epsilon: float = 1e-3
    weight_decay: float = 0.0
    decay_biases: bool = False
    batch_norm_decay: float = 0.99
    label_smoothing: float = 0.0
    dropout: float = 0.0
    ema_decay: float = 0.0
    zero_init_residual: bool = False
    crop_padding: int = 0
    precision: str = "float32"
    compile_network: bool = False
    gradient_norm: float = 0.0
    class_loss: str = "hard-negative"
    box_weight: float = 1.0
    expansion: float = 4.0
    crops: bool = True
    colour: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_type(field.name, str(field.type), getattr(self, field.name))
        self._check_lengths()
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("class_loss", CLASS_LOSSES),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {self.batch_size}")
        for name in ("learning_rate", "decay_epochs", "epsilon"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        for name in (
            *("weight_decay", "reference_batch", "crop_padding"),
            *("gradient_norm", "box_weight"),
        ):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is not negative, but {getattr(self, name)} is")
        for name in (
            *("label_smoothing", "dropout", "ema_decay"),
            *("momentum", "rms_decay", "batch_norm_decay"),
        ):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in 0..1, not {getattr(self, name)}")
        if not 1 <= self.expansion <= 16:
            raise ConfigError(f"expansion must be 1 (none) to 16, not {self.expansion}")
        if not 0 <= self.colour <= 1:
            raise ConfigError(f"colour must be in 0..1, not {self.colour}")
        if not 0 < self.decay_factor <= 1:
            raise ConfigError(
                f"decay_factor must be above 0 and at most 1, not {self.decay_factor}"
            )

    def _check_lengths(self) -> None:
        for name in ("steps", "epochs", "warmup_steps", "warmup_epochs"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is not negative, but {getattr(self, name)} is")
        if self.steps and self.epochs:
            raise ConfigError(
                f"a training has steps or epochs, not both {self.steps} steps and {self.epochs:g} epochs; leave one out"
            )
        if not self.steps and not self.epochs:
            raise ConfigError(
                "a training has steps or epochs above 0, and neither is given; add one"
            )
        if self.warmup_steps and self.warmup_epochs:
            raise ConfigError(
                f"a warm-up has steps or epochs, not both {self.warmup_steps} steps and {self.warmup_epochs:g} epochs; "
                f"leave one out"
            )

    def plan(self, images: int) -> TrainingPlan:
        """Return the steps and rates of this recipe on `images` training images."""
        per_epoch = images / self.batch_size
        return TrainingPlan(
            self, self.steps or max(1, round(self.epochs * per_epoch)), steps_per_epoch=per_epoch
        )

    @property
    def length(self) -> str:
        """The steps, or the epochs with `ep` behind them: short enough for a file's name."""
        return str(self.steps) if self.steps else f"{self.epochs:g}ep"

    def lasting(self, *, steps: int = 0, epochs: float = 0.0) -> Recipe:
        """Return it with another length."""
        return replace(self, steps=steps, epochs=epochs)

    def to_toml(self) -> str:
        """Return it as TOML, which `recipe_from` reads back to an equal one."""
        return tomli_w.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """A recipe on data of a certain size: so many `steps`, `steps_per_epoch` of them in each epoch."""

    recipe: Recipe
    steps: int
    steps_per_epoch: float

    @property
    def epochs(self) -> float:
        """How often each training image is seen."""
        return self.steps / self.steps_per_epoch

    @property
    def warmup_steps(self) -> float:
        """How many steps the rate rises."""
        return self.recipe.warmup_steps or self.recipe.warmup_epochs * self.steps_per_epoch

    @property
    def peak_rate(self) -> float:
        """The learning rate after the warm-up: in proportion to the batch (Goyal et al. 2017, section 2.1)."""
        recipe = self.recipe
        if not recipe.reference_batch:
            return recipe.learning_rate
        return recipe.learning_rate * recipe.batch_size / recipe.reference_batch

    def rate_at(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from zero.

        The exponential schedule is that of the paper's section 5: from 0 up over the warm-up, and multiplied by
        `decay_factor` every `decay_epochs` epochs, these counted from the start, as the authors' code does.
        """
        recipe, warmup = self.recipe, self.warmup_steps
        if recipe.schedule == "exponential":
            if step < warmup:
                return self.peak_rate * step / warmup
            decays = math.floor(step / (recipe.decay_epochs * self.steps_per_epoch))
            return float(self.peak_rate * recipe.decay_factor**decays)
        if step < warmup:
            return self.peak_rate * (step + 1) / (warmup + 1)
        if recipe.schedule == "constant":
            return self.peak_rate
        progress = (step - warmup) / max(1, self.steps - warmup)
        return self.peak_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that ship, sorted."""
    return tuple(sorted(path.stem for path in resource_directory("recipes").glob("*.toml")))


def default_recipe(detector: bool) -> str:
    """Return the name of the recipe of a whole training."""
    return "coco-ssdlite" if detector else "imagenet-full"


def find_recipe(text: str, changes: Mapping[str, object] | None = None) -> Recipe:
    """Return the recipe of a name or a TOML file, with `changes` to its values.

    A change of `steps` takes the place of `epochs`, and the other way round; so for the warm-up.

    Raises:
        ConfigError: there is no such recipe, or a value breaks a rule.
    """
    path = Path(text)
    if path.suffix != ".toml":
        path = resource_directory("recipes") / f"{text}.toml"
        if not path.is_file() or "/" in text:
            near = difflib.get_close_matches(text, recipe_names(), 1)
            raise ConfigError(
                f"unknown recipe {text!r}: it is one of {', '.join(recipe_names())}, or a TOML file"
                + (f"; did you mean {near[0]}?" if near else "")
            )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the recipe {path}: {error.strerror}; check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: a recipe is valid TOML, and this file is not ({error}); correct it"
        ) from error
    changed = dict(changes or {})
    for one, other in (("steps", "epochs"), ("warmup_steps", "warmup_epochs")):
        if one in changed and other not in changed:
            values.pop(other, None)
        elif other in changed and one not in changed:
            values.pop(one, None)
    return recipe_from(values | changed, source=str(path))


def recipe_from(values: Mapping[str, object], *, source: str) -> Recipe:
    """Return the recipe of `values`.

    Raises:
        ConfigError: naming `source` and the key, if a key is unknown or a value breaks a rule.
    """
    names = [field.name for field in fields(Recipe)]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            raise ConfigError(
                f"{source}: {key} is no value of a recipe"
                + (f"; did you mean {near[0]}?" if near else f", only {', '.join(names)} are")
            )
    try:
        return Recipe(**values)  # type: ignore[arg-type]  # it checks itself
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def parse_changes(texts: Sequence[str]) -> dict[str, object]:
    """Return the values in texts such as `ema_decay=0.999`, as TOML reads them; a bare word is a text.

    Raises:
        ConfigError: a text has no `=`, or its value cannot be read.
    """
    changes: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"a value of a recipe is set as KEY=VALUE, not {text!r}; for example --set ema_decay=0.999"
            )
        try:
            changes[key.strip()] = tomllib.loads(f"value = {value.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            changes[key.strip()] = value.strip()
    return changes


def _check_type(name: str, kind: str, value: object) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    legal = {
        "str": isinstance(value, str),
        "int": whole,
        "float": (whole or isinstance(value, float)) and math.isfinite(value),  # type: ignore[arg-type]
        "bool": isinstance(value, bool),
    }[kind]
    if not legal:
        words = {"str": "a text", "int": "a whole number", "float": "a number"}
        raise ConfigError(f"{name} must be {words.get(kind, 'true or false')}, not {value!r}")
