"""How rows of SuperGLUE become text: marks of spans, markup, highlights."""

from typing import Any

import pytest

from accept_llm.tasks.table import TASKS


def wsc(text: str, span1: tuple[Any, str], span2: tuple[Any, str] = (0, "He")) -> dict[str, Any]:
    spans = {"span1_index": span1[0], "span1_text": span1[1]}
    return {"text": text, **spans, "span2_index": span2[0], "span2_text": span2[1]}


@pytest.mark.parametrize(
    ("record", "marked"),
    [
        # As it should be; case and punctuation at the word; several words; the order of spans.
        (wsc("He saw Ann .", (2, "Ann")), "#He# saw *Ann* ."),
        (wsc("He saw ANN.", (2, "ann")), "#He# saw *ANN*."),
        (wsc('He said "it".', (2, "it")), '#He# said "*it*".'),
        (wsc("He saw the old dog, twice", (2, "The old dog")), "#He# saw *the old dog*, twice"),
        (wsc("He saw Ann's dog.", (2, "Ann")), "#He# saw *Ann*'s dog."),
        (wsc("He saw Ann 's dog.", (2, "Ann's dog.")), "#He# saw *Ann 's dog*."),
        (wsc("Mr. Bond fell; he wept.", (0, "Mr. Bond"), (3, "he")), "*Mr. Bond* fell; #he# wept."),
        (wsc("Bob hit Al as he ran.", (2, "Al"), (4, "he")), "Bob hit *Al* as #he# ran."),
        # The words are elsewhere: the nearest, a whole word, and of two the first.
        (wsc("He met Al, and Al fled", (5, "Al")), "#He# met Al, and *Al* fled"),
        (wsc("He met Al, and Al fled", (1, "Al")), "#He# met *Al*, and Al fled"),
        (wsc("He met Al and Al fled", (3, "Al")), "#He# met *Al* and Al fled"),
        (wsc("He met Alan and Al fled", (2, "Al")), "#He# met Alan and *Al* fled"),
        (wsc("He met Pal and Al fled", (2, "Al")), "#He# met Pal and *Al* fled"),
        (wsc("He  ran  off to Al", (3, "Al")), "#He#  ran  off to *Al*"),
        # The words are nowhere: as many words as the span has, and none beyond the end.
        (wsc("He met the captains twice", (2, "the captain")), "#He# met *the captains* twice"),
        (wsc("He met Al", (2, "the captain")), "#He# met *Al*"),
        (wsc("He met Al today", (2, "...")), "#He# met *Al* today"),
        (wsc("He met Al today", (2, "")), "#He# met *Al* today"),
        # One in the other, unicode, and signs that a pattern would read.
        (wsc("He fed his dog", (2, "his dog"), (2, "his")), "He fed *#his# dog*"),
        (wsc("He fed his dog", (3, "dog"), (2, "his dog")), "He fed #his *dog*#"),
        (wsc("He aß die Süßigkeit.", (3, "süßigkeit")), "#He# aß die *Süßigkeit*."),
        (wsc("He owes (a+b) twice", (2, "(a+b)")), "#He# owes (*a+b*) twice"),
    ],
)
def test_wsc_marks_both_spans(record: dict[str, Any], marked: str) -> None:
    assert TASKS["wsc.fixed"].parts(record) == (("wsc.fixed text: ", marked),)


@pytest.mark.parametrize("index", [3, -1, None, "1", 1.5, True])
def test_wsc_index_of_no_word(index: Any) -> None:
    for span in (1, 2):
        record = wsc("He met Al", (2, "Al"), (0, "He")) | {f"span{span}_index": index}
        expected = rf"span{span}_index: got .*; allowed: the place of a word of text, 0 to 2"
        with pytest.raises(ValueError, match=expected):
            TASKS["wsc.fixed"].parts(record)


@pytest.mark.parametrize("column", ["text", "span1_text", "span2_text"])
def test_wsc_columns_must_be_text(column: str) -> None:
    with pytest.raises(ValueError, match=rf"{column}: got None; allowed: text"):
        TASKS["wsc.fixed"].parts(wsc("He met Al", (2, "Al")) | {column: None})


@pytest.mark.parametrize(
    ("paragraph", "text"),
    [
        ("a < b and c > d", "a < b and c > d"),
        ("<b>Sent 1: </b>One.<b>Sent 2: </b>Two.", "One. Two."),
        ("One.<br>Two.<br/>Three.<BR>", "One. Two. Three.<BR>"),
        ("a <b>bold</b>, <i>slanted</i> word", "a bold, slanted word"),
        ("two  spaces\nand a line", "two  spaces\nand a line"),
    ],
)
def test_multirc_markup(paragraph: str, text: str) -> None:
    record = {"question": "Q?", "answer": "A", "paragraph": paragraph}
    assert TASKS["multirc"].parts(record)[2] == (" paragraph: ", text)


@pytest.mark.parametrize(
    ("passage", "text"),
    [
        ("One.", "One."),
        ("One.\n@highlight\nTwo\n@highlight\nThree!", "One. Two. Three!"),
        ("\"One?\"\n@highlight\n'Two'\n@highlight\nThree", "\"One?\" 'Two' Three"),
        ("One\nline\n@highlight\nTwo\n", "One\nline. Two"),
        ("@highlight\nOne", "One"),
    ],
)
def test_record_highlights(passage: str, text: str) -> None:
    record = {"query": "@placeholder", "entities": [], "passage": passage}
    parts = TASKS["record"].parts(record)
    assert parts[1:] == ((" entities: ", ""), (" passage: ", text))


@pytest.mark.parametrize("entities", [None, "Oslo", [1]])
def test_record_entities_must_be_texts(entities: Any) -> None:
    with pytest.raises(ValueError, match=r"entities: got .*; allowed: a list of texts"):
        TASKS["record"].parts({"query": "q", "entities": entities, "passage": "p"})
