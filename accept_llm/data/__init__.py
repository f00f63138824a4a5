"""The way from rows to batches: reading, splitting, tokenizing, drawing and collating."""
