"""The training loop, the evaluation and the resumable state."""
