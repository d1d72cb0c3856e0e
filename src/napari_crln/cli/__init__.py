"""The command line: one module a command, or a pair of them; `main` is its entry.

Commands are thin: they read options, call `volume`, `engine` and `run`, and print. Results go to stdout, as a
table or, with `--json`, as one JSON document (`train`, `resume`: JSON lines); progress and remarks go to
stderr. A fault that a user can mend is one line on stderr, and its class in `errors.py` gives the exit code.
Nothing heavy is imported before a command needs it, so `--help` answers at once.
"""

from napari_crln.cli.app import main

__all__ = ["main"]
