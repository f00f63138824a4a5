"""The run folder: when it may be written, what a run leaves in it, and how it is read again."""
