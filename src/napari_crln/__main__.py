"""`python -m napari_crln`: the command line."""

import sys

from napari_crln.cli import main

if __name__ == "__main__":
    sys.exit(main())
