"""The protocol of a run folder: events that the engine writes, commands that it reads.

The engine appends one JSON object a line to `events.jsonl`; whoever watches, reads. A watcher or a shell
puts one command a file into `inbox/`, named `<sortable id>.json`, by writing aside and renaming; the engine
takes files in name order and deletes each once it has acted on it. Unknown events are skipped by older readers
(`parse_event` returns None); unknown commands are refused with a warning event.

Order comes from `step` and from the position in the file, never from `time`.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

SCHEMA = 1

# Names inside a run folder.
CONFIG_FILE = "config.toml"
EVENTS_FILE = "events.jsonl"
ENVIRONMENT_FILE = "environment.json"
LOCK_FILE = "lock.json"
INBOX = "inbox"
REFUSED = "refused"  # inside the inbox: what was no command
CHECKPOINTS = "checkpoints"
PREVIEW = "preview.zarr"
SUGGESTIONS_FILE = "suggestions.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


class _Event(_Record):
    step: int = Field(ge=0, description="optimiser steps done")
    time: float = Field(default=0.0, description="wall clock, s since 1970; for people only")


class Started(_Event):
    kind: Literal["started"] = "started"
    schema_version: int = SCHEMA
    method: str
    iterations: int
    pid: int
    host: str
    resumed: bool = False
    labelled: int = Field(description="volumes with labels")
    unlabelled: int
    parameters: int = Field(description="trainable parameters of the student")
    prototypes: int = Field(default=0, description="prototypes a class; 0: the method has none")


class Stepped(_Event):
    """Means since the last such event, `interval` steps ago."""

    kind: Literal["stepped"] = "stepped"
    interval: int
    losses: dict[str, float] = Field(description="total and each term, weighted as they enter the total")
    measures: dict[str, float] = Field(
        default_factory=dict, description="mu, changed, confident, agreement, gradient_norm, …"
    )
    learning_rate: float
    rate: float = Field(description="iterations a second")
    data_wait: float = Field(default=0.0, description="share of time spent waiting for data, 0-1")
    memory_mb: float = 0.0
    remaining_s: float | None = None


class Validated(_Event):
    kind: Literal["validated"] = "validated"
    dice: float = Field(description="mean over volumes and foreground classes, 0-1")
    per_class: dict[str, float]
    per_volume: dict[str, float]
    best: bool = False


class Checkpointed(_Event):
    kind: Literal["checkpointed"] = "checkpointed"
    path: str = Field(description="relative to the run folder")


class Previewed(_Event):
    """A new generation of `preview.zarr` is complete."""

    kind: Literal["previewed"] = "previewed"
    generation: int
    volume: str
    maps: list[str]
    region: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None = None
    focus: int = Field(default=0, description="generation of the `focus` command that it answers; 0: of none")


class Suggested(_Event):
    """A new `suggestions.json` is complete."""

    kind: Literal["suggested"] = "suggested"
    count: int = Field(description="slices in it")
    surveyed: int = Field(description="volumes looked at so far")
    volumes: int = Field(description="volumes that may be trained on")


class LabelsTaken(_Event):
    """Training goes on with this revision of a volume's annotation, or a later one that was taken before."""

    kind: Literal["labels_taken"] = "labels_taken"
    volume: str
    revision: int
    role: Literal["labelled", "unlabelled"] = Field(default="labelled", description="what it serves as now")


class Paused(_Event):
    kind: Literal["paused"] = "paused"


class Continued(_Event):
    kind: Literal["continued"] = "continued"


class Warned(_Event):
    kind: Literal["warned"] = "warned"
    message: str


class Ended(_Event):
    kind: Literal["ended"] = "ended"
    reason: Literal["finished", "stopped", "interrupted", "failed"]
    message: str = ""
    seconds: float = 0.0


Event = Annotated[
    Started
    | Stepped
    | Validated
    | Checkpointed
    | Previewed
    | Suggested
    | LabelsTaken
    | Paused
    | Continued
    | Warned
    | Ended,
    Field(discriminator="kind"),
]


class Pause(_Record):
    command: Literal["pause"] = "pause"


class Resume(_Record):
    command: Literal["resume"] = "resume"


class Stop(_Record):
    """End with a checkpoint within one step."""

    command: Literal["stop"] = "stop"


class Focus(_Record):
    """What the viewer looks at: previews start here."""

    command: Literal["focus"] = "focus"
    volume: str
    axis: Literal[0, 1, 2] = 0
    index: int = Field(default=0, ge=0)
    generation: int = Field(default=0, ge=0)


class PreviewBudget(_Record):
    command: Literal["preview_budget"] = "preview_budget"
    share: float = Field(ge=0.0, le=0.5, description="share of training time that previews may take")


class PreviewSimilarity(_Record):
    """Which prototype's scores the similarity map of later previews shows."""

    command: Literal["preview_similarity"] = "preview_similarity"
    prototype: int = Field(
        default=0, ge=0, description="from 1; 0: the largest score of each class's prototypes"
    )


class LabelsChanged(_Record):
    command: Literal["labels_changed"] = "labels_changed"
    volume: str
    revision: int = Field(ge=0)


Command = Annotated[
    Pause | Resume | Stop | Focus | PreviewBudget | PreviewSimilarity | LabelsChanged,
    Field(discriminator="command"),
]

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_COMMAND: TypeAdapter[Command] = TypeAdapter(Command)


def dump_line(event: Event) -> bytes:
    """One event as a line of `events.jsonl`, newline included."""
    return event.model_dump_json().encode() + b"\n"


def parse_event(line: bytes) -> Event | None:
    """Read one complete line; None for a kind that this version does not know.

    Raises
    ------
    ValueError
        If the line is not JSON, or a known kind with wrong fields.
    """
    try:
        return _EVENT.validate_json(line)
    except ValidationError as error:
        if error.errors()[0]["type"] == "union_tag_invalid" and isinstance(json.loads(line)["kind"], str):
            return None
        raise


def dump_command(command: Command) -> bytes:
    """One command as the content of an inbox file."""
    return command.model_dump_json().encode()


def parse_command(data: bytes) -> Command:
    """Read one inbox file; raises ValueError (pydantic's) if it is not a known command."""
    return _COMMAND.validate_json(data)
