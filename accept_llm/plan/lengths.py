"""How long a task's inputs are, in tokens: counted on a sample, by the tokenizer's own library,
so that neither torch nor transformers is loaded.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accept_llm.models.tokenizer_files import reading
from accept_llm.recipe.task import TaskSpec
from accept_llm.tasks.base import Example, Task

SAMPLE = 2000


@dataclass(frozen=True)
class Lengths:
    """Tokens of the inputs as a model reads them, special tokens included, the prompt not."""

    mean: float
    spread: float
    """Standard deviation."""
    longest: int
    rows: int
    """Training rows in memory."""
    source: str
    """How it is known."""

    def tokens(self, rows: int) -> int:
        """The tokens of the longest of some hundred batches of `rows` examples."""
        return round(min(rows * self.mean + 2.7 * self.spread * rows**0.5, rows * self.longest))


def measure(
    spec: TaskSpec, task: Task, *, examples: Sequence[Example], rows: int, folder: Path | None
) -> Lengths:
    """The lengths of some `examples` out of `rows`; without a tokenizer in `folder`, or without
    examples, every input counts as `task.max_length`."""
    most = spec.max_length
    asks = task.asks(spec.cue)
    found = count_tokens([e.text(asks) for e in examples], folder) if examples and folder else None
    if not found:
        what = "the tokenizer" if examples else "the rows"
        source = f"{what} not here: every input counts as task.max_length ({most} tokens)"
        return Lengths(most, 0, most, rows, source)
    counts = [min(count, most) for count in found]
    mean, longest = statistics.fmean(counts), max(counts)
    source = f"inputs of the first {len(counts)} rows: {mean:.1f} tokens, {longest} at most"
    return Lengths(mean, statistics.pstdev(counts), longest, rows, source)


def count_tokens(texts: Sequence[str], folder: Path) -> list[int] | None:
    """Tokens of each text, special ones included; None where no tokenizer is there that can be
    read without transformers. RecipeError for one that is damaged."""
    with reading(folder):
        if (folder / "tokenizer.json").is_file():
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]
        for name in ("tokenizer.model", "spiece.model"):
            if (folder / name).is_file():
                from sentencepiece import SentencePieceProcessor

                pieces = SentencePieceProcessor(model_file=str(folder / name))
                return [len(ids) + 1 for ids in pieces.encode(list(texts))]
    return None
