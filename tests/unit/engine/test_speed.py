"""Each switch gives the numbers of the plain way, and a step asks nothing of the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from napari_crln import config
from napari_crln.config import RunConfig
from napari_crln.engine.data import Batches, TrainingData
from napari_crln.engine.loop import Trainer
from napari_crln.engine.speed import Speed, compile_networks
from napari_crln.engine.state import TrainingState
from napari_crln.engine.update import descend
from napari_crln.method.baselines import STEPS
from napari_crln.method.learner import Randomness

Settings = Callable[..., RunConfig]
CPU = torch.device("cpu")
NAMES = ("background", "one", "two")


#: InstanceNorm and no dropout: BatchNorm over the few voxels of a tiny bottleneck blows rounding up.
SMOOTH: dict[str, Any] = {
    "iterations": 1,
    "network": {"name": "unet3d", "dropout": False},
    "batches": {"patch": [32, 32, 32]},
    "method": {"rectification": {"after": 0}},
}
PLAIN = {"channels_last": "off", "fused": "off", "compile": "off", "preview_share": 0.0}


def trained(
    data: TrainingData, settings: RunConfig, folder: Path, prepare: Callable[[Trainer], None] = lambda _: None
) -> dict[str, Tensor]:
    """Weights and momentum after the run."""
    folder.mkdir()
    trainer = Trainer(data, settings, folder)
    prepare(trainer)
    for _ in trainer:
        pass
    groups = trainer.state.snapshot().tensors
    return {f"{group}.{name}": t.detach() for group, named in groups.items() for name, t in named.items()}


def assert_same(made: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
    assert made.keys() == plain.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(
            made[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("switch", ["channels_last", "fused"])
def test_a_switch_changes_nothing_but_rounding(
    training_data: TrainingData, settings: Settings, tmp_path: Path, switch: str
) -> None:
    plain, other = (
        trained(training_data, settings(**SMOOTH, engine=PLAIN | {switch: how}), tmp_path / how)
        for how in ("off", "on")
    )
    assert_same(other, plain)
    first = TrainingState.initial(settings(**SMOOTH), NAMES, CPU).snapshot().tensors["student"]
    assert not torch.equal(first["backbone.output.weight"], plain["student.backbone.output.weight"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_networks_learn_the_same(
    training_data: TrainingData, settings: Settings, tmp_path: Path
) -> None:
    """Traced whole by torch's compiler; neither differentiated nor turned to kernels there, which takes a minute."""
    made = settings(**SMOOTH, engine=PLAIN)
    plain = trained(training_data, made, tmp_path / "plain")

    def compiled(trainer: Trainer) -> None:
        compile_networks(trainer.state.learner, backend="eager")

    assert_same(trained(training_data, made, tmp_path / "compiled", compiled), plain)


@pytest.mark.parametrize(("switch", "expected"), [("on", True), ("off", False)])
def test_switches_are_obeyed(settings: Settings, switch: str, expected: bool) -> None:
    made = settings(engine={"channels_last": switch, "fused": switch})
    state = TrainingState.initial(made, NAMES, CPU)
    assert state.optimiser.defaults["fused"] == expected
    weight = next(p for p in state.learner.student.parameters() if p.dim() == 5 and min(p.shape) > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last_3d) == expected


def test_the_compile_switch_compiles_student_and_teacher(
    settings: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compiled.append(type(self).__name__)
    )
    TrainingState.initial(settings(engine={"compile": "on"}), NAMES, CPU)
    assert Counter(compiled) == {"VNet": 2, "DynamicInteraction": 2}
    TrainingState.initial(settings(), NAMES, CPU)
    assert len(compiled) == 4


def test_automatic_switches_by_device() -> None:
    cuda, plain = torch.device("cuda"), config.RunConfig()
    assert Speed.of(plain, CPU) == Speed(channels_last=True, fused=True, compiled=False, autotuned=True)
    assert Speed.of(plain, cuda) == Speed(True, True, False, True)
    assert Speed.of(plain, torch.device("mps")) == Speed(False, False, False, True)
    unet = config.build({"network": {"name": "unet3d"}})
    assert Speed.of(unet, CPU).channels_last
    assert not Speed.of(unet, cuda).channels_last, "its norm copies there and back on CUDA"


@pytest.mark.parametrize(("precision", "rounds"), [("auto", True), ("bf16", True), ("fp32", False)])
def test_fp32_is_not_tf32(
    settings: Settings, precision: str, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not rounds)
    TrainingState.initial(settings(engine={"precision": precision}), NAMES, CPU)
    assert torch.backends.cudnn.allow_tf32 == rounds


def test_cudnn_is_told_how_to_choose(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    TrainingState.initial(settings(), NAMES, CPU)
    assert torch.backends.cudnn.benchmark
    TrainingState.initial(settings(engine={"autotune": "off"}), NAMES, CPU)
    assert not torch.backends.cudnn.benchmark


#: What reads a value or a shape off the device, or moves a constant onto it: on CUDA each waits for it.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh", "is_nonzero", "equal")


class Waits(TorchDispatchMode):
    """Counts operations that would make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put") and len(args) > 1 else ()
        by_mask = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices)
        if name in WAITS or by_mask:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    with Waits() as waits:
        yield
    assert not waits.seen, f"the step waits for the device: {dict(waits.seen)}"


def test_the_guard_sees_what_would_wait() -> None:
    x = torch.arange(4.0)
    for wait in (
        x[0].item,
        lambda: x[x > 1],
        x.nonzero,
        lambda: torch.tensor([1.0, 2.0]),
    ):
        with pytest.raises(AssertionError, match="waits"), no_waiting():
            wait()
    with no_waiting():
        x.add(1).where(x > 1, 0).sum()


@pytest.mark.parametrize("method", ["supervised", "mean-teacher", "ua-mt", "cutmix", "crln"])
def test_a_step_never_waits_for_the_device(
    training_data: TrainingData, settings: Settings, method: str
) -> None:
    """From patches to μ, the optimiser included, with padding, sparse labels and rectification."""
    made = settings(method, optimiser={"clip_norm": 1.0}, batches={"patch": [16, 16, 16]})
    state = TrainingState.initial(made, NAMES, CPU)
    batches = Batches(training_data, made, CPU)
    for step in (0, 3):
        random = Randomness(0, step)
        with no_waiting():
            batch = batches.at(random)
            result = STEPS[made.method.name](state.learner, batch, step, random)
            descend(state.optimiser, result.loss, 0.01, made.optimiser.clip_norm)
            state.learner.after_step(result, step)
