"""The adapter: the folder prompt/ of a run, and what its prompt.json says."""
