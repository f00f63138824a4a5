"""The table of the tasks, and a task's first examples as a person sees them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import accept_llm, refused
from support.data_files import write_parquet

from accept_llm.cli import tasks as show
from accept_llm.errors import RecipeError
from accept_llm.tasks.table import TASKS

ROWS = {
    "mnli": [
        {"premise": f"It rained {'all ' * i}day.", "hypothesis": "Wet [b] :smile:", "label": i % 3}
        for i in range(5)
    ],
    "stsb": [{"sentence1": "A cat.", "sentence2": "A dog.", "label": 1.25}],
    "squad": [
        {
            **{"question": "Where?", "context": "In [PAR] São Paulo."},
            "answers": {"text": ["São Paulo", "Paulo"], "answer_start": [9, 13]},
        }
    ],
}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Training rows of three tasks, and no model."""
    for name, rows in ROWS.items():
        write_parquet(tmp_path / f"data/{name}/train.parquet", rows)
    monkeypatch.setenv("ACCEPT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("ACCEPT_MODEL_DIR", raising=False)
    return None


# --- the table --------------------------------------------------------------------------


def test_the_table_has_every_task() -> None:
    rows = {row[0]: row for row in show.task_table()}
    assert list(rows) == list(TASKS)
    assert {len(row) for row in rows.values()} == {len(show.COLUMNS)}
    entailment = "entailment, neutral, contradiction"
    assert rows["mnli"] == ("mnli", entailment, "accuracy", "256", "large", "nyu-mll/glue mnli")
    assert rows["stsb"][1:5] == ("a score", "pearson\nspearman", "256", "small")
    assert rows["squad"][1:] == (
        *("texts", "squad_f1\nexact_match", "512", "large", "rajpurkar/squad"),
    )
    assert rows["quickstart"][4:] == ("given", "(in the package)")


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_no_terminal_cuts_the_table(tmp_path: Path, columns: str) -> None:
    done = accept_llm("tasks", cwd=tmp_path, env={"COLUMNS": columns})
    assert (done.code, done.err) == (0, "")
    assert "…" not in done.out
    for name in TASKS:
        assert f" {name} " in done.out
    assert "The first metric selects the best step" in done.out


# --- a task -----------------------------------------------------------------------------


def test_examples_without_a_tokenizer() -> None:
    assert show.show_task("mnli", None).split("\n") == [
        "mnli, the first rows of train. No tokenizer is at hand: words counted.",
        "",
        "train:0, 10 words (max length 256)",
        "mnli premise: It rained day. hypothesis: Wet [b] :smile: entailed:",
        "label: entailment (word 'yes')",
        "",
        "train:1, 11 words (max length 256)",
        "mnli premise: It rained all day. hypothesis: Wet [b] :smile: entailed:",
        "label: neutral (word 'maybe')",
        "",
        "train:2, 12 words (max length 256)",
        "mnli premise: It rained all all day. hypothesis: Wet [b] :smile: entailed:",
        "label: contradiction (word 'no')",
    ]


def test_scores_and_answers() -> None:
    assert show.show_task("stsb", None).endswith("similarity:\nscore: 1.2 (1.25)")
    squad = "context: In [PAR] São Paulo. answer:\nanswers: São Paulo | Paulo"
    assert show.show_task("squad", None).endswith(squad)


def test_validation_rows_where_there_are_no_others(tmp_path: Path) -> None:
    (tmp_path / "data/squad/train.parquet").rename(tmp_path / "data/squad/validation.parquet")
    shown = show.show_task("squad", None)
    assert shown.startswith("squad, the first rows of validation. ")
    assert "validation:0, " in shown


@pytest.mark.parametrize("by", ["folder", "name", "nothing"])
def test_tokens_of_a_local_tokenizer(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    from transformers import AutoTokenizer

    tiny_llama = shutil.copytree(tiny_llama, tmp_path / "models/tiny_llama")
    if by != "folder":
        monkeypatch.setenv("ACCEPT_MODEL_DIR", str(tiny_llama.parent))
    model = {"folder": str(tiny_llama), "name": tiny_llama.name, "nothing": None}[by]
    shown = show.show_task("stsb", model)
    text = "stsb sentence1: A cat. sentence2: A dog. similarity:"
    count = len(AutoTokenizer.from_pretrained(tiny_llama)(text)["input_ids"])
    used = tiny_llama.name if by == "name" else tiny_llama
    assert f"Tokens are counted with {used}, its special tokens included." in shown
    assert f"train:0, {count} tokens (max length 256)\n{text}\n" in shown


def test_a_model_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    for model, said in {
        str(tmp_path / "empty"): "--model: .*empty has no tokenizer; needed: one of tokenizer.json",
        "nobody/nothing": r"--model: got '.*' \(.*\); allowed: a folder with a",
        "": "--model: got ''; allowed: a folder with a tokenizer",
        " ": "--model: got ' '; allowed: a folder with a tokenizer",
    }.items():
        with pytest.raises(RecipeError, match=said):
            show.show_task("stsb", model)
    monkeypatch.setenv("ACCEPT_MODEL_DIR", str(tmp_path))
    assert "words counted" in show.show_task("stsb", None)


def test_a_broken_tokenizer_is_named_as_in_training(tiny_llama: Path, tmp_path: Path) -> None:
    """Not by what a library says of another format."""
    folder = shutil.copytree(tiny_llama, tmp_path / "tiny")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 499723\n"
    (folder / "tokenizer.json").write_text(pointer)
    with pytest.raises(RecipeError) as caught:
        show.show_task("stsb", str(folder))
    assert caught.value.problems == [
        f"--model: {folder / 'tokenizer.json'} is a pointer of Git LFS, not the file; "
        "`git lfs pull` gets it"
    ]
    shutil.copy(tiny_llama / "tokenizer.json", folder)
    settings = '{"tokenizer_class": "FooTokenizer"}'
    (folder / "tokenizer_config.json").write_text(settings)
    with pytest.raises(RecipeError, match=r"^--model: .*tokenizer_class: got 'FooTokenizer', whi"):
        show.show_task("stsb", str(folder))


def test_a_name_that_is_no_task(tmp_path: Path) -> None:
    wrong = accept_llm("tasks", "squadd", cwd=tmp_path)
    refused(wrong, "error: tasks: got 'squadd', did you mean 'squad'? allowed: sst2, cola")
    lonely = accept_llm("tasks", "--model", "x", cwd=tmp_path)
    refused(lonely, "--model: got 'x' without a task; allowed: tasks NAME")


def test_the_command_shows_the_packaged_rows(tmp_path: Path, tiny_llama: Path) -> None:
    done = accept_llm("tasks", "quickstart", "--model", tiny_llama, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("quickstart, the first rows of train. Tokens are counted with ")
    assert done.out.count("quickstart text: ") == 3
    assert done.out.count("sentiment:\nlabel: ") == 3
