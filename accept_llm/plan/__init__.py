"""Whether a run fits, under every engine and weight format. No torch, and no weight is read."""
