"""Data parallel: every process holds all the frozen weights and computes its part of a batch."""

from accept_llm.engines.group import Group


class DdpEngine(Group):
    """Only the gradients of prompt and head travel: one message a step (trainer.py)."""

    kind = "ddp"
