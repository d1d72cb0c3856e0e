"""Run folders from outside: make, start, watch. No torch."""
