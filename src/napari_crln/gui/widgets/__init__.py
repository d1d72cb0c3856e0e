"""Thin Qt widgets of the panel: they draw snapshots and pass clicks to the presenter, and decide nothing."""
