"""The napari plugin. The only package that imports napari or Qt, and it never imports torch."""
