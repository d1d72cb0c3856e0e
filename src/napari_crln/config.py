"""Configuration of a run: pydantic models, TOML in and out.

Every choice of METHOD (docs/concepts/method.md) is a field, so that each can be ablated from the command line:
`--set method.dim.prototypes=8`. A field's `resume` metadata says whether it may change when a run is resumed:
"free" (no effect on what is learned), "warn" (allowed, recorded), "never" (the state would not fit or lie).
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from napari_crln.errors import ConfigError
from napari_crln.small_file import read_small

SCHEMA = 1
#: In the place of a preset: none, even where a project names one; sizes by the data.
AUTOMATIC = "automatic"
_LIMIT = 1 << 20  # bytes of a configuration
MethodName = Literal["supervised", "mean-teacher", "ua-mt", "cutmix", "bcp", "crln"]
Resume = Literal["free", "warn", "never"]
Switch = Literal["auto", "on", "off"]


def _field(default: Any, doc: str, resume: Resume = "never", **rules: Any) -> Any:
    return Field(default=default, description=doc, json_schema_extra={"resume": resume}, **rules)


def _ascending(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if list(values) != sorted(values):
        raise ValueError("values ascend")
    return values


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("values are distinct")
    return values


_Count: TypeAlias = Annotated[int, Field(ge=1)]
_Size: TypeAlias = tuple[_Count, _Count, _Count]
_Factor: TypeAlias = Annotated[float, Field(gt=0)]
_Range: TypeAlias = Annotated[tuple[_Factor, _Factor], AfterValidator(_ascending)]
_Axes: TypeAlias = Annotated[tuple[Literal["D", "H", "W"], ...], AfterValidator(_distinct)]
_Stages: TypeAlias = Annotated[tuple[_Count, ...], AfterValidator(_distinct), AfterValidator(_ascending)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Network(_Section):
    name: Literal["vnet", "unet3d"] = _field("vnet", "backbone")
    base_filters: int = _field(16, "channels at full resolution", ge=1)
    dropout: bool = _field(
        True,
        "dropout at the bottleneck and before the output: of the student; of the teacher only with method.teacher.mode "
        "= train, and in ua-mt's passes; never in prediction",
    )


class Optimiser(_Section):
    """Paper, section 4.1: SGD with Nesterov momentum and a polynomial schedule; warm-up is ours."""

    learning_rate: float = _field(2.5e-3, "peak learning rate", "warn", gt=0)
    momentum: float = _field(0.9, "Nesterov momentum", "warn", ge=0, lt=1)
    weight_decay: float = _field(5e-4, "L2 penalty", "warn", ge=0)
    decay: Literal["all", "kernels"] = _field(
        "all", "what it acts on: kernels spares biases, norms and prototypes"
    )
    power: float = _field(0.9, "exponent of the polynomial decay", "warn", ge=0)
    warmup: int = _field(0, "iterations of linear warm-up (paper: 0)", "warn", ge=0)
    clip_norm: float | None = _field(None, "largest gradient norm; none: not clipped", "warn", gt=0)


class Batches(_Section):
    patch: _Size = _field((80, 112, 112), "patch in voxels, D, H, W")
    labelled: int = _field(2, "labelled patches a step", ge=1)
    unlabelled: int = _field(2, "unlabelled patches a step", ge=1)
    foreground: float = _field(
        0.0, "share of labelled patches centred on a foreground voxel (paper: 0)", "warn", ge=0, le=1
    )


class Views(_Section):
    """Weak and strong views (METHOD, recipe). In-plane is the H-W plane."""

    minmax: bool = _field(True, "rescale every patch, and every window in prediction, to 0-1")
    rot90: bool = _field(True, "in-plane rotations by 90°; 180° only where H and W differ")
    flip: _Axes = _field(("H", "W"), "axes that may be flipped; none where orientation informs")
    weak_brightness: _Range = _field((0.75, 1.25), "factor of the weak view, uniform")
    strong: bool = _field(True, "strong view for the student; off: it sees the weak one")
    strong_scale: _Range = _field((0.5, 1.5), "in-plane scale, uniform")
    cutmix: float = _field(1.0, "probability that a strong view takes a CutMix box", ge=0, le=1)
    cutmix_beta: float = _field(4.0, "β(a, a) of the box's share of the plane", gt=0)
    strong_brightness: _Range = _field((0.75, 1.25), "factor, uniform")
    strong_brightness_p: float = _field(0.8, "probability of it", ge=0, le=1)
    noise_sigma: float = _field(0.1, "Gaussian noise, in units of the 0-1 patch", ge=0)
    noise_p: float = _field(0.5, "probability of it", ge=0, le=1)
    strong_flip_p: float = _field(0.5, "probability of a further rot90 + flip", ge=0, le=1)


class Teacher(_Section):
    decay: float = _field(0.99, "EMA decay; warm-up 1 - 1/(t + 1)", "warn", ge=0, le=1)
    mode: Literal["eval", "train"] = _field(
        "eval",
        "eval: no dropout, BatchNorm by the EMA of the student's running statistics; train (paper's code): dropout as "
        "the student, BatchNorm by its own batches, and prediction by its own running statistics, which are not averaged",
    )


class Dim(_Section):
    """Dynamic Interaction Module (METHOD, DIM; paper, section 3.2)."""

    prototypes: int = _field(16, "R, prototypes a class", ge=1)
    width: int = _field(64, "F, width of the prototypes and of the representations", ge=1)
    prototype_std: float = _field(1.0, "standard deviation of the prototypes' start", gt=0)
    stages: _Stages = _field(
        (2, 3), "decoder stages, coarse to fine: 2 = 1/4, 3 = 1/2 resolution", min_length=1
    )
    levels_to_map: Literal["all", "last"] = _field("all", "levels that write into M: summed, or the finest")
    residual_prototypes: bool = _field(True, "prototypes are updated by residual, or replaced")
    signed: bool = _field(True, "M is signed; off: ReLU")
    cross_class: bool = _field(True, "1×1×1 convolution between the classes' maps")
    map_axes: Literal["class", "prototype"] = _field(
        "class",
        "what the 3×3×3 convolution makes a map of: a class's R maps, or, transposed, the C maps of one prototype a class; "
        "the 1×1×1 convolution is then R → C, whatever cross_class says",
    )
    upsampling: Literal["trilinear", "transposed"] = _field("trilinear", "from stage to full resolution")


class Rectification(_Section):
    """z_r = z̄ + (1 - μ) M̄ (METHOD, step 3)."""

    enabled: bool = _field(True, "rectify the pseudo-labels by M")
    after: int = _field(800, "first iteration that rectifies: before, M knows nothing", "warn", ge=0)
    on: Literal["logits", "probabilities"] = _field(
        "logits",
        "what M is added to for the pseudo-labels: z̄ or softmax z̄; μ is fitted on, and prediction made from, logits either way",
    )
    mu_initial: float = _field(0.05, "μ at the start, near 0: clues weigh fully", gt=0, lt=1)
    mu_learning_rate: float = _field(0.05, "SGD step of μ's parameter; 0: μ stays", "warn", ge=0)
    confidence: Literal["sum", "mean"] = _field(
        "sum", "softmax of the rectified logits as they are, or over 2 - μ: a weighted mean of z and M"
    )


class Consistency(_Section):
    """Cross-entropy of the student's strong view against the pseudo-label."""

    weight: float = _field(0.5, "of the term", "warn", ge=0)
    weighting: Literal["sample", "voxel"] = _field(
        "sample", "a sample by its share of confident voxels, or a mask of them"
    )
    sample_threshold: float = _field(0.97, "confidence that counts, weighting = sample", ge=0, le=1)
    voxel_threshold: float = _field(0.75, "confidence that counts, weighting = voxel", ge=0, le=1)
    ramp_up: int = _field(0, "iterations of sigmoid ramp-up; 0: none", "warn", ge=0)


class Cps(_Section):
    """Cooperative Positive Supervision (METHOD, losses; paper, section 3.3)."""

    enabled: bool = _field(True, "contrast uncertain voxels with unassertive positives")
    weight: float = _field(0.5, "of the term", "warn", ge=0)
    temperature: float = _field(
        0.5, "τ of InfoNCE, and of the softmax of similarities that negatives' classes are drawn by", gt=0
    )
    anchors: int = _field(256, "uncertain voxels a class, at most", ge=1)
    negatives: int = _field(
        512,
        "negatives an anchor; at most so many voxels a class make r_m and are the pool of negatives",
        ge=1,
    )
    mean_negatives: bool = _field(
        False, "negatives count by their mean: the term's floor does not grow with their number"
    )
    valid_confidence: float = _field(
        0.7, "teacher's confidence that makes an unlabelled voxel valid", ge=0, le=1
    )
    certain: float = _field(
        0.97, "anchors are valid voxels whose student probability of their class is below", ge=0, le=1
    )
    xi: float | None = _field(
        None, "ξ, the prototypes' share of the positive; none: U(0, 1) drawn each step", ge=0
    )
    hidden: int | None = _field(
        None, "channels of the head's 3×3×3 convolution; none: the features' own", ge=1
    )


class UncertaintyMeanTeacher(_Section):
    """UA-MT (Yu et al., MICCAI 2019)."""

    passes: int = _field(8, "stochastic teacher passes", ge=1)
    noise_sigma: float = _field(0.1, "input noise of the teacher's passes, clipped at 2 σ", ge=0)
    weight: float = _field(0.1, "of the squared difference, after ramp-up", "warn", ge=0)
    ramp_up: int = _field(1000, "iterations of sigmoid ramp-up of weight and threshold", "warn", ge=0)


class BidirectionalCopyPaste(_Section):
    """BCP (Bai et al., CVPR 2023)."""

    pretrain: int = _field(2000, "first iterations: copy-paste between labelled patches alone", "warn", ge=0)
    share: float = _field(2 / 3, "side of the box that is pasted over, of the patch's", gt=0, lt=1)
    weight: float = _field(0.5, "α, of voxels whose label is the teacher's", "warn", ge=0)
    largest_component: bool = _field(True, "pseudo-labels keep the largest component of each class")


class Method(_Section):
    """Supervised → mean teacher → + M head → + rectification → + CPS: a ladder of switches on one step."""

    name: MethodName = _field("crln", "method")
    clues: bool = _field(True, "crln only: train DIM and its map head M")
    teacher: Teacher = Teacher()
    views: Views = Views()
    consistency: Consistency = Consistency()
    dim: Dim = Dim()
    rectification: Rectification = Rectification()
    cps: Cps = Cps()
    ua_mt: UncertaintyMeanTeacher = UncertaintyMeanTeacher()
    bcp: BidirectionalCopyPaste = BidirectionalCopyPaste()

    @model_validator(mode="after")
    def _ladder(self) -> Method:
        if not self.clues and (self.rectification.enabled or self.cps.enabled) and self.name == "crln":
            raise ValueError("clues = false needs rectification.enabled = false and cps.enabled = false")
        return self

    @property
    def uses_clues(self) -> bool:
        """Whether the model has DIM and its map head."""
        return self.name == "crln" and self.clues

    @property
    def uses_rectification(self) -> bool:
        """Whether pseudo-labels are rectified."""
        return self.uses_clues and self.rectification.enabled

    @property
    def uses_cps(self) -> bool:
        """Whether the contrastive term is on."""
        return self.uses_clues and self.cps.enabled


class Engine(_Section):
    device: str = _field(
        "auto", "auto, cpu, cuda, cuda:1, mps", "warn", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$"
    )
    precision: Literal["auto", "fp32", "bf16"] = _field(
        "auto", "auto: bf16 on CUDA, fp32 elsewhere; fp32 on CUDA is without TF32", "warn"
    )
    channels_last: Switch = _field(
        "auto", "channels_last_3d weights; auto: on CPU and CUDA, but for unet3d on CUDA", "warn"
    )
    fused: Switch = _field("auto", "optimiser and EMA in few kernels; auto: on CPU and CUDA", "warn")
    compile: Switch = _field("auto", "networks by torch.compile; auto: off", "warn")
    autotune: Switch = _field("auto", "cuDNN tries its algorithms at each new size; auto: on", "warn")
    cohort: Literal["auto", "resident", "streamed"] = _field(
        "auto", "volumes on the device, or patches read from disk; auto: by the memory that is there", "free"
    )
    read_ahead: int = _field(4, "streamed: steps whose patches are read in advance", "free", ge=0)
    chunk_cache_mb: int = _field(1024, "streamed: decoded chunks that are kept, MiB", "free", ge=1)
    threads: int | None = _field(None, "CPU threads; none: torch's choice", "warn", ge=1)
    log_every: int = _field(10, "iterations between `stepped` events", "free", ge=1)
    checkpoint_every: int = _field(200, "iterations between checkpoints", "free", ge=1)
    keep: int = _field(2, "checkpoints kept, besides the best on validation", "free", ge=1)
    validate_every: int = _field(
        0, "iterations between validations; 0: only where there is none to do", "free", ge=0
    )
    on_out_of_memory: Literal["stop", "halve"] = _field(
        "stop", "a step does not fit: stop, or go on with half the batch, then half the patch", "free"
    )
    preview_share: float = _field(
        0.05, "share of training time for previews and suggestions", "free", ge=0, le=0.5
    )
    preview_history: int = _field(20, "previews kept, the newest ones", "free", ge=1)
    suggestions: int = _field(20, "slices suggested for labelling; 0: none are looked for", "free", ge=0)
    suggestion_share: float = _field(
        0.3, "share of the time for previews that looking for slices to label takes", "free", ge=0, le=1
    )


class Predicting(_Section):
    """Sliding window (METHOD, prediction)."""

    overlap: float = _field(0.5, "share of a window that its neighbour covers too", "free", ge=0, lt=1)
    stride: _Size | None = _field(None, "voxels, D, H, W; overrides overlap", "free")
    batch: int = _field(2, "windows at once", "free", ge=1)
    clues: bool = _field(True, "predict from z + (1 - μ) M; off: from z alone", "free")


class RunConfig(_Section):
    """All that a run is made from; written to `config.toml` in its folder."""

    schema_version: int = _field(SCHEMA, "of this file", ge=1, le=SCHEMA)
    iterations: int = _field(40_000, "optimiser steps", "warn", ge=1)
    seed: int = _field(0, "of weights, sampling and views", ge=0)
    network: Network = Network()
    optimiser: Optimiser = Optimiser()
    batches: Batches = Batches()
    method: Method = Method()
    engine: Engine = Engine()
    predicting: Predicting = Predicting()


def presets() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(p.name[:-5] for p in _preset_folder().iterdir() if p.name.endswith(".toml"))


def load_preset(name: str) -> dict[str, Any]:
    """Values of a shipped preset, to be merged over the defaults; none for AUTOMATIC."""
    if name == AUTOMATIC:
        return {}
    if name not in presets():
        known = ", ".join((AUTOMATIC, *presets()))
        raise ConfigError(f"no preset {name!r}", f"presets are {known}", "Choose one of them", "--preset")
    return tomllib.loads((_preset_folder() / f"{name}.toml").read_text("utf-8"))


def build(*layers: dict[str, Any]) -> RunConfig:
    """Merge layers of values, later ones winning field by field, and validate the result."""
    values: dict[str, Any] = {}
    for layer in layers:
        values = _merge(values, layer)
    return _validated(values, None)


def load(path: Path) -> RunConfig:
    """Read `config.toml`."""
    try:
        values = tomllib.loads(read_small(path, _LIMIT).decode("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", "a configuration is a TOML file", "Check the path", path
        ) from error
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, or no small file
        raise ConfigError(
            f"not TOML: {error}", "a configuration is a TOML file", "Mend or replace it", path
        ) from error
    return _validated(values, path)


def dumps(config: RunConfig) -> str:
    """The configuration as TOML; fields that are none are left out."""
    import tomlkit  # here: reading needs no more than the standard library

    return tomlkit.dumps(config.model_dump(mode="json", exclude_none=True))


def assignment(text: str, where: str = "--set") -> dict[str, Any]:
    """Parse `a.b.c=value` (value in TOML, or a bare word) into nested values; `where` is for the message."""
    path, _, value = (part.strip() for part in text.partition("="))
    keys = path.split(".")
    if not value or not all(keys) or "\n" in value:
        raise ConfigError(
            f"{text!r} assigns nothing",
            "a setting is section.field=value, without blanks",
            "Write for example batches.labelled=2",
            where,
        )
    parsed: Any = _value(value)
    for key in reversed(keys):
        parsed = {key: parsed}
    return dict(parsed)


def differences(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any, Resume]]:
    """Fields that differ, as (dotted name, old, new, whether a resumed run may take it)."""
    return list(_differences("", old, new))


def _differences(prefix: str, old: BaseModel, new: BaseModel) -> Any:
    for name, field in type(old).model_fields.items():
        a, b = getattr(old, name), getattr(new, name)
        if isinstance(a, _Section):
            yield from _differences(f"{prefix}{name}.", a, b)
        elif a != b:
            extra = field.json_schema_extra
            yield f"{prefix}{name}", a, b, extra["resume"] if isinstance(extra, dict) else "never"


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):
        return None if text in {"none", "None"} else text


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _validated(values: dict[str, Any], where: Path | None) -> RunConfig:
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "configuration"
        rule = "there is no such field" if first["type"] == "extra_forbidden" else first["msg"]
        found = f"{field} = {shorten(repr(first['input']), 80)}"
        raise ConfigError(found, rule, _remedy(first), where) from error


def _remedy(first: Any) -> str:
    """What is right in the place of the first mistake; no path to documentation, which is not installed."""
    if first["type"] != "extra_forbidden":
        return "Correct it; the documentation's page 'Configuration' describes every field"
    *sections, _ = first["loc"]
    model: Any = RunConfig
    for name in sections:  # these are right: pydantic found no such field within them
        model = model.model_fields[name].annotation
    return f"Choose one of {', '.join(model.model_fields)}"


def _preset_folder() -> Any:
    return resources.files("napari_crln") / "presets"
