"""From rows to batches: reading, splitting, tokenizing, drawing, collating."""
