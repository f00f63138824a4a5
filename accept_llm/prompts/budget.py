"""The sizes of prompts, for those who look for them here; see accept_llm/budget.py, which is
not in this package because the package loads torch.
"""

from accept_llm.budget import PAPER_SUBSPACES, CodebookShape, PromptShape, codebook_shape, solve

__all__ = ["PAPER_SUBSPACES", "CodebookShape", "PromptShape", "codebook_shape", "solve"]
