"""Benchmarks against PEFT: both sides in one run, taking turns; medians, and their ratios.

sides.py says what is compared, measure.py how, compute.py what a step must compute at least;
step.py, scaling.py, accuracy.py and gpu.py are the four that run.
"""
