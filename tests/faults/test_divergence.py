"""Loss or gradient becomes NaN or infinite: no step is made with it, the last good state is saved, and it is said."""

from __future__ import annotations

import pytest
from sandbox import Sandbox, Zygote, differing, final

from napari_crln import events
from napari_crln.engine import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # under load
BAD = 3  # the step that goes wrong, from 0
OPTIONS = ("--set=engine.checkpoint_every=100", "--set=method.consistency.sample_threshold=0")


@pytest.fixture
def good(sandbox: Sandbox, zygote: Zygote, imported: object) -> checkpoint.Snapshot:
    """The state of a like run after its last good step."""
    place = Sandbox.beside(sandbox.root, imported, zygote)
    process = place.train("--iterations", 10, *OPTIONS, failpoint=f"loop:step@{BAD}=SIGTERM")
    assert process.wait().code == 130
    return final(place.run)


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("what", ["loss_becomes", "gradient_becomes"])
def test_what_diverges_leaves_the_last_good_state_to_the_bit(
    sandbox: Sandbox, good: checkpoint.Snapshot, what: str, value: str
) -> None:
    broken = what, {"step": BAD, "value": value}
    ended = sandbox.train("--iterations", 10, *OPTIONS, broken=broken).wait()
    assert ended.code == 6, ended.err
    assert f"at iteration {BAD}" in ended.last_words
    assert "learning rate below 0.01" in ended.last_words
    assert "Traceback" not in ended.err
    if what == "loss_becomes":
        assert "loss consistency is" in ended.last_words
    last = sandbox.events()[-1]
    assert isinstance(last, events.Ended)
    assert (last.reason, last.step) == ("failed", BAD)
    assert last.message in ended.last_words
    assert differing(final(sandbox.run), good) == []

    ended = sandbox.resume("--set", "optimiser.learning_rate=0.005", "--iterations", 5).wait()
    assert ended.code == 0, ended.err
    assert final(sandbox.run).step == 5
    sandbox.check()
