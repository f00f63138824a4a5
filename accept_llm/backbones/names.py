"""Which stored tensors each weight of a model comes from, by transformers' own rules: those that
from_pretrained renames by, adds or takes a prefix by, and puts experts together by.
"""

from collections.abc import Mapping, Set
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from accept_llm.backbones.slices import Checkpoint
from accept_llm.errors import RecipeError
from accept_llm.models.headers import FLOATS

SHOWN = 5  # wrong tensors listed in an error


@dataclass(frozen=True)
class Conversion:
    """One or more weights that transformers makes out of one or more stored tensors."""

    converter: Any
    first: str
    """The first of the weights, by which the converter knows the others."""
    stored: list[tuple[str, str]] = field(default_factory=list)
    """Stored names, in their order, and the pattern that each of them has matched."""

    def make(self, lm: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights by name, of the stored tensors by theirs."""
        converter = deepcopy(self.converter)
        for name, pattern in self.stored:
            converter.add_tensor(self.first, name, pattern, _Read(tensors[name]))
        made = converter.convert(self.first, model=lm, config=lm.config)
        return {name: x[0] if isinstance(x, list) else x for name, x in made.items()}


@dataclass(frozen=True)
class _Read:
    """A tensor that a converter asks for by a call."""

    tensor: Tensor

    def __call__(self) -> Tensor:
        return self.tensor


class ModelCheckpoint:
    """The tensors of a checkpoint by the names of a model's weights; see Checkpoint. RecipeError
    where two tensors are stored for one weight, or one of numbers that are no weight's."""

    def __init__(self, checkpoint: Checkpoint, lm: Any):
        self._checkpoint, self._lm = checkpoint, lm
        self._stored: dict[str, str] = {}
        self._made: dict[str, Conversion] = {}
        self._last: tuple[Conversion, dict[str, Tensor]] | None = None
        self._problems: list[str] = []
        self._find()
        if self._problems:
            raise RecipeError(self._problems[:SHOWN])

    @property
    def names(self) -> Set[str]:
        return self._stored.keys() | self._made.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        if name in self._stored:
            return self._checkpoint.shape(self._stored[name])
        found = self._made[name]
        empty = {n: torch.empty(self._checkpoint.shape(n), device="meta") for n, _ in found.stored}
        return tuple(found.make(self._lm, empty)[name].shape)

    def read_rows(self, name: str, start: int, *, out: Tensor) -> None:
        if name in self._stored:
            self._checkpoint.read_rows(self._stored[name], start, out=out)
        else:
            out.detach().copy_(self._convert(name)[start : start + len(out)])

    def read_flat(self, name: str, start: int, *, out: Tensor) -> None:
        if name in self._stored:
            self._checkpoint.read_flat(self._stored[name], start, out=out)
        else:
            there = self._convert(name).flatten()[start : start + len(out)]
            out.detach()[: len(there)].copy_(there)
            out.detach()[len(there) :] = 0

    def same(self, one: str, other: str) -> bool:
        stored = [self._stored.get(name) for name in (one, other)]
        if stored[0] and stored[1]:
            return self._checkpoint.same(stored[0], stored[1])
        return False

    def _convert(self, name: str) -> Tensor:
        """A weight that is made of several tensors, or with others of one: read whole, and kept
        until another is asked for."""
        found = self._made[name]
        if self._last is None or self._last[0] is not found:
            self._last = None
            tensors = {stored: self._checkpoint.read(stored) for stored, _ in found.stored}
            self._last = (found, found.make(self._lm, tensors))
        return self._last[1][name]

    def _find(self) -> None:
        """As convert_and_load_state_dict_in_model of transformers' core_model_loading.py goes
        through the names of a checkpoint."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )

        rules = get_model_conversion_mapping(self._lm)
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
        weights, prefix = self._lm.state_dict(), self._lm.base_model_prefix
        for stored in sorted(self._checkpoint.names, key=dot_natural_key):
            name, pattern = rename_source_key(stored, renamings, converters, prefix, weights)
            if name not in weights and stored in weights:
                name, pattern = rename_source_key(stored, [], [], prefix, weights)
            if name not in weights:
                continue
            self._check_dtype(stored, weights[name])
            if pattern is None:
                self._check_single(name, stored)
                self._stored[name] = stored
                continue
            rule = by_pattern[pattern]
            found = self._made.get(name) or Conversion(rule, name)
            self._check_parts(found, stored)
            found.stored.append((stored, pattern))
            first, *_ = rule.target_patterns
            for target in rule.target_patterns:
                self._made[name.replace(first, target)] = found

    def _check_dtype(self, stored: str, weight: Tensor) -> None:
        """transformers would turn numbers of other types into floats, without their scales."""
        found = self._checkpoint.stored(stored)
        if weight.is_floating_point() and found.dtype not in FLOATS:
            got = f"model: {found.file}: {stored} has dtype {found.dtype}"
            self._problems.append(f"{got}; allowed: {', '.join(FLOATS)}")

    def _check_single(self, name: str, stored: str) -> None:
        other = self._stored.get(name)
        if other is not None and not self._checkpoint.same(other, stored):
            self._say_twice(name, other, stored)

    def _check_parts(self, found: Conversion, stored: str) -> None:
        """Of the tensors that a weight is put together from, each may be there once."""
        prefix = f"{self._lm.base_model_prefix}."
        for other, _ in found.stored:
            if other.removeprefix(prefix) == stored.removeprefix(prefix):
                self._say_twice(found.first, other, stored)

    def _say_twice(self, name: str, *stored: str) -> None:
        file, names = self._checkpoint.stored(stored[0]).file, " and ".join(stored)
        got = f"model: {file.parent} has two tensors for one weight, {name}: {names}"
        self._problems.append(f"{got}; allowed: one of them")
