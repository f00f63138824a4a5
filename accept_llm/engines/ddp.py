"""Data parallel: every process holds all the frozen weights and computes its part of a batch."""

from accept_llm.engines.group import Group


class DdpEngine(Group):
    """Only the gradients of method and head travel: one message a step (training/trainer.py)."""

    kind = "ddp"
