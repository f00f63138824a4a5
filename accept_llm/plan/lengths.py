"""How long a task's inputs are, in tokens: counted on a sample, by the tokenizer's own library,
so that neither torch nor transformers is loaded.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accept_llm.errors import RecipeError
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
    read without transformers. RecipeError for one that its library cannot read."""
    count = next((COUNTS[name] for name in COUNTS if (folder / name).is_file()), None)
    if count is None:
        return None
    try:
        return count(list(texts), folder)
    except Exception as error:  # tokenizers raises plain Exception
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        message = f"model: the tokenizer in {folder} cannot be read ({why})"
        raise RecipeError([f"{message}; allowed: one as transformers saves it"]) from None


def _by_tokenizers(texts: list[str], folder: Path) -> list[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]


def _by_sentencepiece(texts: list[str], folder: Path) -> list[int]:
    from sentencepiece import SentencePieceProcessor

    name = next(name for name in SENTENCEPIECE if (folder / name).is_file())
    pieces = SentencePieceProcessor(model_file=str(folder / name))
    return [len(ids) + 1 for ids in pieces.encode(texts)]


SENTENCEPIECE = ("tokenizer.model", "spiece.model")
COUNTS: dict[str, Callable[[list[str], Path], list[int]]] = {
    "tokenizer.json": _by_tokenizers,
    **dict.fromkeys(SENTENCEPIECE, _by_sentencepiece),
}
