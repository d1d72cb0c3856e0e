"""Lines under controls that say how things stand; no Qt. The manual quotes them."""

from __future__ import annotations

from napari_crln.gui.model import Snapshot

#: While the share of time for previews is 0.
OFF = "Previews are off: Time for maps is 0 %."
#: Of a run whose first maps are still to come.
SOON = "No maps yet: the first come soon after training has started."


def of_maps(now: Snapshot) -> str:
    """What is known of the live maps of the shown volume: which are shown, or why there are none."""
    own = [p for p in now.run.previews if p.volume == now.shown]
    off = OFF if now.run.active and now.live.budget <= 0 else ""
    if not own:
        return off or _none(now)
    chosen = next((p for p in own if p.generation == now.live.generation), None)
    if chosen is None:
        return f"Newest maps, of iteration {own[-1].step}. {off}".strip()
    if chosen.kept:
        return f"Maps of iteration {chosen.step}. The right end follows the newest."
    return (
        f"Maps of iteration {chosen.step}, which the run has meanwhile removed; they stay in the viewer "
        "until you move on. The right end follows the newest."
    )


def of_suggestions(now: Snapshot) -> str:
    """What is known of the slices to annotate next, or why none are listed."""
    found = now.suggestions
    if now.suggesting:
        return "Looking at all volumes …"
    if found is None:
        waiting = (
            OFF if now.live.budget <= 0 else "The first suggestions come soon after training has started."
        )
        return waiting if now.run.active else ""
    seen = "" if found.surveyed == found.volumes else f", {found.surveyed} of {found.volumes} volumes seen"
    words = f"As of iteration {found.step}{seen}."
    if not found.items:
        words = f"Nothing left to suggest. {words}"
    return f"{words} {found.note}".strip()


def _none(now: Snapshot) -> str:
    """Why there are no maps of the shown volume."""
    if now.run.folder is None or not now.shown:
        return ""
    row = now.shown_row
    if row is not None and row.role == "test":
        return f"No maps of {now.shown}: it is a test volume, which training never opens."
    if not now.run.active:
        return f"No maps of {now.shown}: this run is not being trained, and has left none."
    if now.run.progress.step == 0 or now.run.state == "starting":
        return SOON
    return f"The maps of {now.shown} are being made."
