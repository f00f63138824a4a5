"""Frozen language models, each with differentiable calls."""
