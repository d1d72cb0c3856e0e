"""Semi-supervised 3D segmentation with CRLN, for napari and for the shell.

Nothing is imported here but the version, so that napari and the shell start at once;
see `napari_crln.engine.loop.Trainer` for the Python API and `napari_crln.cli` for the commands.
"""

__version__ = "0.1.0.dev0"
