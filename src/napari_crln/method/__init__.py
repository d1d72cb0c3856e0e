"""CRLN, one training step at a time, and its peers. Pure torch: no files, no clock, no logging."""
