"""Benchmarks: both sides in one run, medians, and the ratio."""
