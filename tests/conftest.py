"""What holds for all tests: no time limit on single examples, since CI machines are shared and slow at times."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("crln", deadline=None)
settings.load_profile("crln")
