"""Volumes, their geometry, labels, intensities, and the project folder that stores them. No torch."""
