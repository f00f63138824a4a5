"""What several tests share: rows, models, commands, runs, references."""
