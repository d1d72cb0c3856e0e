"""The training loop and what it needs: data, control, checkpoints, prediction, evaluation."""
