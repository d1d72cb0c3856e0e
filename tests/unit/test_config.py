"""Configuration: merging, TOML round trips, errors that name the field, and a frozen list of options."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from napari_crln.config import (
    RunConfig,
    assignment,
    build,
    differences,
    dumps,
    load,
    load_preset,
    presets,
)
from napari_crln.errors import ConfigError

# Every option there is. A new one must earn its place: add it here, and to an experiment that shows its worth.
OPTIONS = [
    "batches.foreground",
    "batches.labelled",
    "batches.patch",
    "batches.unlabelled",
    "engine.autotune",
    "engine.channels_last",
    "engine.checkpoint_every",
    "engine.chunk_cache_mb",
    "engine.cohort",
    "engine.compile",
    "engine.device",
    "engine.fused",
    "engine.keep",
    "engine.log_every",
    "engine.on_out_of_memory",
    "engine.precision",
    "engine.preview_history",
    "engine.preview_share",
    "engine.read_ahead",
    "engine.suggestion_share",
    "engine.suggestions",
    "engine.threads",
    "engine.validate_every",
    "iterations",
    "method.bcp.largest_component",
    "method.bcp.pretrain",
    "method.bcp.share",
    "method.bcp.weight",
    "method.clues",
    "method.consistency.ramp_up",
    "method.consistency.sample_threshold",
    "method.consistency.voxel_threshold",
    "method.consistency.weight",
    "method.consistency.weighting",
    "method.cps.anchors",
    "method.cps.certain",
    "method.cps.enabled",
    "method.cps.hidden",
    "method.cps.mean_negatives",
    "method.cps.negatives",
    "method.cps.temperature",
    "method.cps.valid_confidence",
    "method.cps.weight",
    "method.cps.xi",
    "method.dim.cross_class",
    "method.dim.levels_to_map",
    "method.dim.map_axes",
    "method.dim.prototype_std",
    "method.dim.prototypes",
    "method.dim.residual_prototypes",
    "method.dim.signed",
    "method.dim.stages",
    "method.dim.upsampling",
    "method.dim.width",
    "method.name",
    "method.rectification.after",
    "method.rectification.confidence",
    "method.rectification.enabled",
    "method.rectification.mu_initial",
    "method.rectification.mu_learning_rate",
    "method.rectification.on",
    "method.teacher.decay",
    "method.teacher.mode",
    "method.ua_mt.noise_sigma",
    "method.ua_mt.passes",
    "method.ua_mt.ramp_up",
    "method.ua_mt.weight",
    "method.views.cutmix",
    "method.views.cutmix_beta",
    "method.views.flip",
    "method.views.minmax",
    "method.views.noise_p",
    "method.views.noise_sigma",
    "method.views.rot90",
    "method.views.strong",
    "method.views.strong_brightness",
    "method.views.strong_brightness_p",
    "method.views.strong_flip_p",
    "method.views.strong_scale",
    "method.views.weak_brightness",
    "network.base_filters",
    "network.dropout",
    "network.name",
    "optimiser.clip_norm",
    "optimiser.decay",
    "optimiser.learning_rate",
    "optimiser.momentum",
    "optimiser.power",
    "optimiser.warmup",
    "optimiser.weight_decay",
    "predicting.batch",
    "predicting.clues",
    "predicting.overlap",
    "predicting.stride",
    "schema_version",
    "seed",
]

OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "iterations": st.integers(1, 10**9),
        "seed": st.integers(0, 2**63 - 1),
        "network.name": st.sampled_from(["vnet", "unet3d"]),
        "network.dropout": st.booleans(),
        "optimiser.learning_rate": st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        "optimiser.clip_norm": st.none() | st.floats(1e-6, 1e6),
        "batches.patch": st.tuples(*[st.integers(1, 512)] * 3),
        "method.views.flip": st.lists(st.sampled_from("DHW"), unique=True).map(tuple),
        "method.views.strong_scale": st.tuples(st.floats(0.1, 1), st.floats(1, 2)),
        "method.cps.xi": st.none() | st.floats(0, 10),
        "method.dim.stages": st.sampled_from([(2,), (2, 3), (1, 2, 3)]),
        "engine.device": st.sampled_from(["auto", "cpu", "mps", "cuda", "cuda:3"]),
        "predicting.stride": st.none() | st.tuples(*[st.integers(1, 99)] * 3),
    },
)


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _leaves(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _nested(flat: dict[str, Any]) -> list[dict[str, Any]]:
    layers = []
    for path, value in flat.items():
        layer: Any = value
        for key in reversed(path.split(".")):
            layer = {key: layer}
        layers.append(layer)
    return layers


def test_the_list_of_options_is_frozen() -> None:
    assert sorted(name for name, _ in _leaves(RunConfig)) == sorted(OPTIONS)


def test_every_option_has_a_description_and_a_rule_for_resuming() -> None:
    for name, field in _leaves(RunConfig):
        assert field.description, name
        assert field.json_schema_extra["resume"] in {"free", "warn", "never"}, name


def test_defaults_are_the_papers() -> None:
    config = build()
    assert (config.iterations, config.optimiser.learning_rate, config.optimiser.weight_decay) == (
        40_000,
        2.5e-3,
        5e-4,
    )
    assert (config.batches.labelled, config.batches.unlabelled) == (2, 2)
    assert (config.method.dim.prototypes, config.method.dim.width, config.method.dim.stages) == (
        16,
        64,
        (2, 3),
    )
    assert (config.method.cps.anchors, config.method.cps.negatives, config.method.cps.temperature) == (
        256,
        512,
        0.5,
    )
    assert (config.method.teacher.decay, config.method.rectification.after) == (0.99, 800)


def test_later_layers_win_field_by_field_and_leave_their_neighbours() -> None:
    config = build(
        {"iterations": 5, "method": {"name": "crln", "cps": {"weight": 0.1, "anchors": 3}}},
        {"method": {"cps": {"weight": 0.2}}},
    )
    assert (config.iterations, config.method.cps.weight, config.method.cps.anchors) == (5, 0.2, 3)
    assert config.method.dim == RunConfig().method.dim


def test_building_changes_none_of_its_layers() -> None:
    first, second = {"method": {"cps": {"weight": 0.1}}}, {"method": {"cps": {"anchors": 9}}}
    build(first, second)
    assert first == {"method": {"cps": {"weight": 0.1}}}
    assert second == {"method": {"cps": {"anchors": 9}}}


@given(OVERRIDES)
def test_toml_round_trip(flat: dict[str, Any]) -> None:
    config = build(*_nested(flat))
    text = dumps(config)
    assert RunConfig.model_validate(tomllib.loads(text)) == config


def test_file_round_trip(tmp_path: Path) -> None:
    config = build({"seed": 3, "predicting": {"stride": [4, 18, 18]}}, assignment("engine.device=cuda:1"))
    path = tmp_path / "config.toml"
    path.write_text(dumps(config), "utf-8")
    assert load(path) == config


@pytest.mark.parametrize("name", presets())
def test_presets_are_valid_and_change_something(name: str) -> None:
    assert build(load_preset(name)) != build()


def test_unknown_preset_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'hipocampus'.*hippocampus"):
        load_preset("hipocampus")


@pytest.mark.parametrize(
    ("layer", "field", "value"),
    [
        ({"colour": "red"}, "colour", "red"),
        ({"method": {"cps": {"wieght": 0.3}}}, "method.cps.wieght", "0.3"),
        ({"iterations": 0}, "iterations", "0"),
        ({"method": {"views": {"flip": ["X"]}}}, "method.views.flip", "X"),
        ({"method": {"name": "crlm"}}, "method.name", "crlm"),
        ({"batches": {"patch": [32, 32]}}, "batches.patch", "32"),
        ({"batches": 3}, "batches", "3"),
        ({"batches": {"patch": [32, 0, 32]}}, "batches.patch.1", "0"),
        ({"predicting": {"stride": [-1, 1, 1]}}, "predicting.stride.0", "-1"),
        ({"method": {"views": {"strong_scale": [1.5, 0.5]}}}, "method.views.strong_scale", "1.5, 0.5"),
        ({"method": {"views": {"flip": ["H", "H"]}}}, "method.views.flip", "'H', 'H'"),
        ({"method": {"dim": {"stages": [3, 2]}}}, "method.dim.stages", "[3, 2]"),
        ({"method": {"dim": {"stages": []}}}, "method.dim.stages", "[]"),
        ({"method": {"consistency": {"weight": float("inf")}}}, "method.consistency.weight", "inf"),
        ({"engine": {"device": "gpu"}}, "engine.device", "gpu"),
        ({"schema_version": 99}, "schema_version", "99"),
        ({"optimiser": {"learning_rate": float("nan")}}, "optimiser.learning_rate", "nan"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_field_and_value(
    layer: dict[str, Any], field: str, value: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(layer)
    message = str(caught.value)
    assert field in message
    assert value in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_a_broken_rule_of_the_ladder_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match=r"clues = false needs rectification\.enabled = false") as caught:
        build(RunConfig().model_dump(), {"method": {"clues": False}})
    assert len(str(caught.value)) < 300


def test_errors_of_a_file_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for content in (b"seed = ", b"seed = -1", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"mine\.toml"):
            load(path)
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=3", {"seed": 3}),
        ("method.cps.weight=0.25", {"method": {"cps": {"weight": 0.25}}}),
        ("method.name=mean-teacher", {"method": {"name": "mean-teacher"}}),
        ('engine.device="cuda:1"', {"engine": {"device": "cuda:1"}}),
        ("engine.device=cuda:1", {"engine": {"device": "cuda:1"}}),
        ("batches.patch=[16, 32, 32]", {"batches": {"patch": [16, 32, 32]}}),
        ("method.cps.xi=none", {"method": {"cps": {"xi": None}}}),
        ("method.views.rot90=false", {"method": {"views": {"rot90": False}}}),
        ("seed = 3", {"seed": 3}),
        ("engine.device=a=b", {"engine": {"device": "a=b"}}),
        ("method.views.flip=[]", {"method": {"views": {"flip": []}}}),
    ],
)
def test_assignments(text: str, values: dict[str, Any]) -> None:
    assert assignment(text) == values


@pytest.mark.parametrize("text", ["seed", "=3", "", "method..name=crln", ".seed=1", "seed="])
def test_an_assignment_without_field_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        assignment(text)


def test_a_bare_word_cannot_smuggle_in_a_second_field() -> None:
    with pytest.raises(ConfigError):
        build(assignment("seed=1\niterations = 7"))


def test_differences_name_old_new_and_what_a_resumed_run_may_do() -> None:
    old = build()
    new = build(
        {"seed": 4, "iterations": 50_000, "engine": {"log_every": 3}, "method": {"dim": {"prototypes": 8}}}
    )
    assert differences(old, old) == []
    assert sorted(differences(old, new)) == [
        ("engine.log_every", 10, 3, "free"),
        ("iterations", 40_000, 50_000, "warn"),
        ("method.dim.prototypes", 16, 8, "never"),
        ("seed", 0, 4, "never"),
    ]


def test_what_shapes_the_state_may_never_change_on_resume() -> None:
    fields = {name: field.json_schema_extra["resume"] for name, field in _leaves(RunConfig)}
    shaping = (
        "network.name",
        "network.base_filters",
        "method.name",
        "method.dim.width",
        "method.dim.stages",
        "seed",
    )
    assert {fields[name] for name in shaping} == {"never"}
    assert {fields[name] for name in OPTIONS if name.startswith("predicting.")} == {"free"}


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        build().seed = 3
