from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from napari_crln.method import step as step_module
from napari_crln.method.baselines import STEPS
from napari_crln.method.learner import Batch, Learner, Randomness, StepResult
from napari_crln.method.rectify import PseudoLabels, fuse
from napari_crln.method.step import strong_view, weak_views
from napari_crln.types import IGNORE

Build = Callable[..., Learner]
OFF = {"clues": False, "rectification": {"enabled": False}, "cps": {"enabled": False}}
METHODS = ("supervised", "mean-teacher", "ua-mt", "cutmix", "bcp", "crln")


def result_of(learner: Learner, batch: Batch, step: int = 0, seed: int = 0) -> StepResult:
    random = Randomness(seed, step)
    random.seed_dropout()
    return STEPS[learner.settings.name](learner, batch, step, random)


def trained(learner: Learner, batch: Batch, steps: int = 3) -> list[float]:
    """Losses of a few steps of plain SGD with the teacher and μ following."""
    optimiser = torch.optim.SGD(learner.student.parameters(), lr=0.05)
    losses = []
    for step in range(steps):
        result = result_of(learner, batch, step)
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        learner.after_step(result, step)
        losses.append(result.loss.item())
    return losses


def reached(module: nn.Module) -> bool:
    return any(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_only_the_student_gets_a_gradient_and_all_of_it(learner: Build, batch: Batch, method: str) -> None:
    model = learner(method)
    result = result_of(model, batch, step=3)
    result.loss.backward()
    assert [n for n, p in model.student.named_parameters() if p.grad is None] == []
    assert all(p.grad is None for p in (*model.teacher.parameters(), *model.trust.parameters()))
    assert not any(m.requires_grad for m in result.measures.values() if m is not result.loss)
    assert result.loss.item() == pytest.approx(sum(t.item() for t in result.terms.values()), rel=1e-5)


def test_terms_of_each_method(learner: Build, batch: Batch) -> None:
    terms = {method: list(result_of(learner(method), batch).terms) for method in METHODS}
    assert terms == {
        "supervised": ["supervised"],
        "mean-teacher": ["supervised", "consistency"],
        "ua-mt": ["supervised", "consistency"],
        "cutmix": ["supervised", "consistency"],
        "bcp": ["inward", "outward"],
        "crln": ["supervised", "consistency", "clues", "cps"],
    }


@pytest.mark.parametrize(
    ("term", "backbone", "prototypes", "head"),
    [
        ("supervised", True, False, False),
        ("consistency", True, False, False),
        ("clues", True, True, False),
        ("cps", True, False, True),
    ],
)
def test_each_term_reaches_what_it_should(
    learner: Build, batch: Batch, term: str, backbone: bool, prototypes: bool, head: bool
) -> None:
    model = learner()
    result_of(model, batch, step=3).terms[term].backward()
    assert model.student.dim is not None
    assert model.student.head is not None
    assert reached(model.student.backbone) == backbone
    grad = model.student.dim.prototypes.grad
    assert (grad is not None and bool((grad != 0).any())) == prototypes
    assert reached(model.student.head) == head


def test_terms_enter_with_their_weights(learner: Build, batch: Batch) -> None:
    plain = result_of(learner(), batch, step=3).terms
    weighted = result_of(
        learner(method={"consistency": {"weight": 1.5}, "cps": {"weight": 0.25}}), batch, step=3
    ).terms
    assert weighted["consistency"].item() == pytest.approx(3 * plain["consistency"].item(), rel=1e-5)
    assert weighted["cps"].item() == pytest.approx(0.5 * plain["cps"].item(), rel=1e-5)
    ramped = result_of(learner(method={"consistency": {"ramp_up": 12}}), batch, step=6).terms
    full = result_of(learner(), batch, step=6).terms
    share = torch.tensor(-5 * 0.25).exp().item()
    assert ramped["consistency"].item() == pytest.approx(share * full["consistency"].item(), rel=1e-5)


def test_crln_without_its_ideas_is_mean_teacher_to_the_bit(learner: Build, batch: Batch) -> None:
    control, bare = learner("mean-teacher"), learner(method=OFF)
    assert trained(control, batch) == trained(bare, batch)
    for mine, theirs in zip(control.state_dict().values(), bare.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_methods_of_one_seed_see_the_same_views(learner: Build, batch: Batch) -> None:
    views = [weak_views(learner(method), batch, Randomness(4, 7)) for method in METHODS]
    for other in views[1:]:
        assert all(torch.equal(a, b) for a, b in zip(views[0], other, strict=True))
    other_step = weak_views(learner(), batch, Randomness(4, 8))
    assert not torch.equal(views[0][0], other_step[0])


def test_strong_views_of_mean_teacher_and_crln_are_the_same(learner: Build, batch: Batch) -> None:
    pseudo = PseudoLabels(torch.zeros(2, 16, 16, 16).long(), torch.ones(2, 16, 16, 16))
    seen = [
        strong_view(learner(m), batch.x_u, pseudo, batch.valid_u, Randomness(4, 7))
        for m in ("mean-teacher", "crln")
    ]
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1].label_BDHW, seen[1][1].label_BDHW)


def _pseudo_labels_that_the_student_is_taught(
    monkeypatch: pytest.MonkeyPatch, model: Learner, batch: Batch, step: int
) -> tuple[StepResult, Tensor]:
    """What enters the consistency term, with the strong view off so that voxels stay in place."""
    taught: list[Tensor] = []
    original = step_module.consistency_loss

    def note(logits: Tensor, label: Tensor, confidence: Tensor, options: object) -> Tensor:
        taught.append(label)
        return original(logits, label, confidence, options)  # type: ignore[arg-type]

    monkeypatch.setattr(step_module, "consistency_loss", note)
    return result_of(model, batch, step), taught[0]


@pytest.mark.parametrize(("step", "rectified"), [(1, False), (2, True)])
def test_rectification_starts_at_its_iteration_and_is_the_teachers_fusion(
    learner: Build, batch: Batch, monkeypatch: pytest.MonkeyPatch, step: int, rectified: bool
) -> None:
    model = learner(method={"views": {"strong": False}})
    with torch.no_grad():  # a teacher whose clues differ from the student's, strong enough to change labels
        for head in model.teacher.dim.heads.values():  # type: ignore[union-attr]
            head.cross_class.weight.mul_(30)
    result, label = _pseudo_labels_that_the_student_is_taught(monkeypatch, model, batch, step)
    _, _, x_u, _ = weak_views(model, batch, Randomness(0, step))
    z, clues = model.teach(x_u)
    assert clues is not None
    fused = fuse(z.logits_BCDHW, clues.map_BCDHW, model.trust.mu.detach())
    before, after = z.logits_BCDHW.argmax(1), fused.argmax(1)
    share = (before != after).float().mean()
    assert share > 0.05, "the clues change nothing, so nothing is tested"
    assert torch.equal(label, after if rectified else before)
    assert result.measures["changed"].item() == pytest.approx(share.item() if rectified else 0.0)


def test_invented_voxels_are_taught_nowhere(learner: Build, batch: Batch) -> None:
    """Whatever the teacher says where padding invented voxels changes no loss of the student."""
    valid = batch.valid_u.clone()
    valid[:, 8:] = False
    pseudo = PseudoLabels(torch.randint(0, 3, (2, 16, 16, 16)), torch.rand(2, 16, 16, 16))
    other = PseudoLabels(torch.where(valid, pseudo.label_BDHW, 2 - pseudo.label_BDHW), pseudo.confidence_BDHW)
    model = learner(method={"views": {"flip": [], "rot90": False}})
    one, two = (
        strong_view(model, batch.x_u, p, valid, Randomness(0, 0))[1].label_BDHW for p in (pseudo, other)
    )
    assert torch.equal(one, two)
    assert (one[:, 8:] == IGNORE).all()
    assert (one[:, :8] != IGNORE).any()


def test_unannotated_voxels_are_in_no_loss_of_labels(learner: Build, batch: Batch) -> None:
    """Nor are they in what μ is fitted on."""
    sparse = batch._replace(y_l=torch.full_like(batch.y_l, IGNORE))
    result = result_of(learner(), sparse, step=3)
    assert result.terms["supervised"] == 0
    assert result.terms["clues"] == 0
    assert result.labelled is not None
    z, m, y = result.labelled
    assert (y == IGNORE).all()
    assert not z.requires_grad
    assert not m.requires_grad


def test_the_teacher_predicts_with_its_own_clues_in_eval_mode(learner: Build, batch: Batch) -> None:
    model = learner()
    with torch.no_grad():
        model.teacher.dim.prototypes.mul_(3.0)  # type: ignore[union-attr]
    model.teacher.train()
    logits = model.infer(batch.x_u)
    assert torch.equal(logits, model.infer(batch.x_u)), "dropout is on"
    output = model.teacher(batch.x_u)
    mu = model.trust.mu.detach()
    torch.testing.assert_close(logits, output.logits_BCDHW + (1 - mu) * model.teacher.clues(output).map_BCDHW)
    assert torch.equal(model.infer(batch.x_u, use_clues=False), output.logits_BCDHW)


@pytest.mark.parametrize(("mode", "moves"), [("eval", False), ("train", True)])
def test_the_teachers_mode_says_whose_batch_statistics_it_uses(
    learner: Build, batch: Batch, mode: str, moves: bool
) -> None:
    model = learner(method={"teacher": {"mode": mode}})
    before = {n: b.clone() for n, b in model.teacher.named_buffers()}
    model.teach(batch.x_u)
    moved = any(not torch.equal(b, before[n]) for n, b in model.teacher.named_buffers())
    assert moved == moves


def test_a_teacher_in_train_mode_keeps_running_statistics_of_its_own(learner: Build, batch: Batch) -> None:
    """Averaged with the student's they would be of neither: its own passes move them, and prediction takes them."""
    model = learner(method={"teacher": {"mode": "train"}})
    for step in range(3):
        result = result_of(model, batch, step)
        with torch.no_grad():
            model.student.backbone.output.weight.add_(1.0)
        own = {n: b.clone() for n, b in model.teacher.named_buffers()}
        model.after_step(result, step)
        assert all(torch.equal(b, own[n]) for n, b in model.teacher.named_buffers())
        assert all(int(b) == step + 1 for n, b in own.items() if n.endswith("num_batches_tracked"))
        assert any(not torch.equal(b, own[n]) for n, b in model.student.named_buffers())
        if step == 0:
            assert torch.equal(model.teacher.backbone.output.weight, model.student.backbone.output.weight)
    model.infer(batch.x_u)
    assert all(torch.equal(b, own[n]) for n, b in model.teacher.named_buffers())


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_teacher_that_a_step_asks_nothing_has_the_students_statistics(
    learner: Build, batch: Batch, mode: str
) -> None:
    """`supervised`, and `bcp` at first: of its own it has none, and prediction would normalise by 0 and 1."""
    for model in (
        learner("supervised", method={"teacher": {"mode": mode}}),
        learner("bcp", method={"teacher": {"mode": mode}, "bcp": {"pretrain": 5}}),
    ):
        model.after_step(result_of(model, batch), 0)
        expected = dict(model.student.named_buffers())
        assert all(torch.equal(b, expected[n]) for n, b in model.teacher.named_buffers())


@pytest.mark.parametrize(
    ("method", "mode", "drops"), [("crln", "eval", 0), ("crln", "train", 2), ("ua-mt", "eval", 4)]
)
def test_whether_the_teacher_drops_features_is_as_the_fields_say(
    learner: Build, batch: Batch, method: str, mode: str, drops: int
) -> None:
    """Twice a pass, in train mode and in the passes of ua-mt (two here); never in prediction."""
    model = learner(method, method={"teacher": {"mode": mode}, "ua_mt": {"passes": 2}})
    dropped: list[bool] = []
    for module in model.teacher.modules():
        if isinstance(module, nn.Dropout | nn.Dropout3d):
            module.register_forward_hook(lambda m, *_: dropped.append(m.training))
    result_of(model, batch)
    assert sum(dropped) == drops
    dropped.clear()
    model.infer(batch.x_u)
    assert dropped
    assert not any(dropped)


def test_after_step_moves_the_teacher_and_mu(learner: Build, batch: Batch) -> None:
    model = learner()
    result = result_of(model, batch)
    before = model.trust.mu.item()
    with torch.no_grad():
        model.student.dim.prototypes.add_(1.0)  # type: ignore[union-attr]
    model.after_step(result, 0)
    assert torch.equal(model.teacher.dim.prototypes, model.student.dim.prototypes)  # type: ignore[union-attr]
    assert model.trust.mu.item() != before


def test_after_step_asks_no_value_of_a_verdict(
    learner: Build, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it would make a GPU catch up with the program, at every step."""

    def read(*_: object) -> None:
        raise AssertionError("a value was read")

    model, taken = learner(), torch.tensor(False)
    result = result_of(model, batch)
    with monkeypatch.context() as patched:
        for reading in ("__bool__", "__float__", "__int__", "item", "tolist", "cpu"):
            patched.setattr(Tensor, reading, read)
        model.after_step(result, 0, taken=taken)


@pytest.mark.parametrize("decay", [0.9, 0.99])
def test_the_teacher_follows_with_the_decay_that_is_configured(
    learner: Build, batch: Batch, decay: float
) -> None:
    model = learner("supervised", method={"teacher": {"decay": decay}})
    result = result_of(model, batch)
    with torch.no_grad():
        model.teacher.backbone.output.bias.fill_(1.0)
        model.student.backbone.output.bias.fill_(3.0)
    model.after_step(result, 1000)
    expected = torch.full((3,), decay * 1.0 + (1 - decay) * 3.0)
    torch.testing.assert_close(model.teacher.backbone.output.bias, expected)


def test_uncertain_voxels_do_not_count_in_ua_mt(learner: Build, batch: Batch) -> None:
    """With a teacher that knows nothing every entropy is ln C, above the threshold: no consistency."""
    model = learner("ua-mt")
    with torch.no_grad():
        model.teacher.backbone.output.weight.zero_()
        model.teacher.backbone.output.bias.zero_()
    result = result_of(model, batch)
    assert result.terms["consistency"] == 0
    assert result.measures["confident"] == 0


@pytest.mark.parametrize("network", ["vnet", "unet3d"])
def test_passes_of_ua_mt_are_stochastic(learner: Build, network: str) -> None:
    model = learner("ua-mt", network={"name": network}, method={"ua_mt": {"noise_sigma": 0.0, "passes": 2}})
    switched: list[bool] = []
    for module in model.teacher.modules():
        if isinstance(module, nn.Dropout | nn.Dropout3d):
            module.register_forward_hook(lambda m, *_: switched.append(m.training))
    x = torch.rand(2, 1, 16, 16, 32)
    still = torch.ones(2, 16, 16, 32, dtype=torch.bool)
    STEPS["ua-mt"](model, Batch(x, still.to(torch.int16), x, still), 0, Randomness(0, 0))
    assert any(switched), "no dropout in the passes"
    model.infer(x)
    assert not any(switched[-2:]), "dropout stays on in prediction"


def test_cutmix_baseline_has_no_other_augmentation(learner: Build) -> None:
    views = learner("cutmix").settings.views
    assert (views.strong_scale, views.cutmix) == ((1.0, 1.0), 1.0)
    assert (views.strong_brightness_p, views.noise_p, views.strong_flip_p) == (0.0, 0.0, 0.0)


def test_random_streams_are_functions_of_seed_step_and_purpose() -> None:
    def numbers(seed: int, step: int, purpose: str) -> list[float]:
        return Randomness(seed, step).numpy(purpose).random(3).tolist()

    assert numbers(1, 2, "sampling") == numbers(1, 2, "sampling")
    keys = [(1, 2, "sampling"), (1, 2, "weak views"), (2, 1, "sampling"), (1, 3, "sampling")]
    assert len({tuple(numbers(*key)) for key in keys}) == len(keys)
    cps = [torch.rand(2, generator=Randomness(1, s).torch(torch.device("cpu"))) for s in (2, 2, 3)]
    assert torch.equal(cps[0], cps[1])
    assert not torch.equal(cps[0], cps[2])


def test_without_a_valid_voxel_nothing_is_taught_or_measured(learner: Build, batch: Batch) -> None:
    model = learner("mean-teacher", method={"views": {"strong": False}}, network={"dropout": False})
    result = result_of(model, batch._replace(valid_u=torch.zeros_like(batch.valid_u)))
    assert result.measures["agreement"] == 0
    assert result.terms["consistency"] == 0
    assert result.measures["confident"] == 0
