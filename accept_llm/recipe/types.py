"""What every section of a recipe is made of: numbers with their bounds, and `Spec`."""

from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _no_bool(value: Any) -> Any:
    """YAML reads `yes` and `no` as booleans, and pydantic would take them as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number (YAML reads yes, no, on and off as true and false)")
    return value


_NoBool = BeforeValidator(_no_bool)
LARGEST = 2**31 - 1  # torch and numpy take no larger ones everywhere
Count = Annotated[int, Field(ge=1, le=LARGEST), _NoBool]
Size = Annotated[int, Field(ge=0, le=LARGEST), _NoBool]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), _NoBool]
# More than any optimizer's step survives; torch cannot take the largest floats at all.
Rate = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False), _NoBool]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=200)]
LONGEST_NAME, LONGEST_PATH = 255, 4000  # bytes that Linux takes, with room for what lies below


def possible_path(path: str) -> str:
    """A path that an operating system can look for."""
    names = [name.encode("utf-8", "surrogatepass") for name in path.split("/")]
    if "\0" in path or max(map(len, names)) > LONGEST_NAME or len(path) > LONGEST_PATH:
        limits = f"{LONGEST_NAME} bytes a name, {LONGEST_PATH} in all"
        raise ValueError(f"a path without null characters, of at most {limits}")
    return path


PathText = Annotated[str, AfterValidator(possible_path)]
"""A file or a folder; whether it is there, others look."""


class Spec(BaseModel):
    """A part of a recipe: frozen, and every key must be known."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def kind_of(spec: type[Spec]) -> str:
    """What `kind` a recipe gives to have this class."""
    (kind,) = get_args(spec.model_fields["kind"].annotation)
    return kind
