"""The tokens that a model is to say for a label: a word, or a text with its end."""

from typing import Any

from accept_llm.errors import RecipeError
from accept_llm.recipe.head import ChoiceHead, LabelWordsHead
from accept_llm.tasks.base import Task


def label_word_ids(spec: LabelWordsHead, task: Task, *, tokenizer: Any) -> list[int]:
    """The first token of each label's word, as it follows a space.

    Raises RecipeError for an empty word and for two words that begin alike.
    """
    words = [spec.words.get(a, b) for a, b in zip(task.labels, task.words, strict=True)]
    bare = tokenizer("x", add_special_tokens=False)["input_ids"]
    ids = []
    for word in words:
        # After "x", so that the word gets its leading space whatever the tokenizer does.
        joined = tokenizer(f"x {word.strip()}", add_special_tokens=False)["input_ids"]
        if not word.strip() or len(joined) == len(bare):
            raise RecipeError([f"head.words: got {word!r}; allowed: a word"])
        ids.append(joined[len(bare)])
    if len(set(ids)) < len(ids):
        raise RecipeError(
            [
                f"head.words: got {words}; allowed: words whose first tokens differ (they are "
                f"{tokenizer.convert_ids_to_tokens(ids)})"
            ]
        )
    return ids


def answer_ids(tokenizer: Any, text: str, *, encoder_decoder: bool) -> list[int]:
    """The tokens that say `text`, and the end of a text: for a decoder that starts with them, or
    for a causal LM that goes on with them after a space."""
    if encoder_decoder:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        bare = tokenizer("x", add_special_tokens=False)["input_ids"]
        ids = tokenizer(f"x {text.strip()}", add_special_tokens=False)["input_ids"][len(bare) :]
    return [*ids, tokenizer.eos_token_id]


def label_texts(
    spec: ChoiceHead, task: Task, *, tokenizer: Any, encoder_decoder: bool
) -> list[list[int]]:
    """The tokens of each label's text; RecipeError for an empty one and for two that are alike."""
    texts = spec.texts(task)
    ids = [answer_ids(tokenizer, text, encoder_decoder=encoder_decoder) for text in texts]
    alike = len(set(map(tuple, ids))) < len(ids)
    if alike or not all(text.strip() for text in texts):
        raise RecipeError(
            [f"head.words: got {texts}; allowed: a text for each label, all different"]
        )
    return ids
