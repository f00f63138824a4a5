"""A row of every task as its source has it, and the example that it must become."""

from typing import Any

from accept_llm.tasks.base import Example

GOLDEN: dict[str, tuple[dict[str, Any], Example]] = {
    "sst2": (
        {"sentence": "a dull film ", "label": 0, "idx": 7},
        Example("train:0", (("sst2 sentence: ", "a dull film"),), 0),
    ),
    "cola": (
        {"sentence": "The book what he read.", "label": 0, "idx": 7},
        Example("train:0", (("cola sentence: ", "The book what he read."),), 0),
    ),
    "rte": (
        {"sentence1": "It rained.", "sentence2": "It was wet.", "label": 1, "idx": 7},
        Example("train:0", (("rte sentence1: ", "It rained."), (" sentence2: ", "It was wet.")), 1),
    ),
    "mrpc": (
        {"sentence1": "He left.", "sentence2": "He went.", "label": 1, "idx": 7},
        Example("train:0", (("mrpc sentence1: ", "He left."), (" sentence2: ", "He went.")), 1),
    ),
    "stsb": (
        {"sentence1": "A cat.", "sentence2": "A dog.", "label": 1.25, "idx": 7},
        Example("train:0", (("stsb sentence1: ", "A cat."), (" sentence2: ", "A dog.")), 1.25),
    ),
    "cb": (
        {"premise": "He thinks so.", "hypothesis": "It is so.", "label": 2, "idx": 7},
        Example("train:0", (("cb premise: ", "He thinks so."), (" hypothesis: ", "It is so.")), 2),
    ),
    "boolq": (
        {"question": "is tea a plant", "passage": "Tea -- Tea is a drink.", "label": 0, "idx": 7},
        Example(
            "train:0",
            (("boolq question: ", "is tea a plant"), (" passage: ", "Tea -- Tea is a drink.")),
            0,
        ),
    ),
    "qqp": (
        {"question1": "Is it far?", "question2": "How far is it?", "label": 1, "idx": 7},
        Example(
            "train:0", (("qqp question1: ", "Is it far?"), (" question2: ", "How far is it?")), 1
        ),
    ),
    "mnli": (
        {"premise": "She left ", "hypothesis": "She stayed", "label": 2, "idx": 7},
        Example("train:0", (("mnli premise: ", "She left"), (" hypothesis: ", "She stayed")), 2),
    ),
    "qnli": (
        {"question": "Who came?", "sentence": "Ann came late.", "label": 0, "idx": 7},
        Example(
            "train:0", (("qnli question: ", "Who came?"), (" sentence: ", "Ann came late.")), 0
        ),
    ),
    "multirc": (
        {
            "paragraph": "<b>Sent 1: </b>Ann came.<br><b>Sent 2: </b>It was <i>late</i>.<br>",
            "question": "Who came?",
            "answer": "Bob",
            "idx": {"paragraph": 1, "question": 2, "answer": 3},
            "label": 0,
        },
        Example(
            "train:0",
            (
                ("multirc question: ", "Who came?"),
                (" answer: ", "Bob"),
                (" paragraph: ", "Ann came. It was late."),
            ),
            0,
        ),
    ),
    "wic": (
        {
            **{"word": "bank", "sentence1": "The bank was closed.", "sentence2": "A steep bank."},
            **{"start1": 4, "start2": 8, "end1": 8, "end2": 12, "idx": 7, "label": 0},
        },
        Example(
            "train:0",
            (
                ("wic sentence1: ", "The bank was closed."),
                (" sentence2: ", "A steep bank."),
                (" word: ", "bank"),
            ),
            0,
        ),
    ),
    "wsc.fixed": (
        {
            "text": "The jug fell on the plate, but it did not break.",
            "span1_index": 4,
            "span2_index": 7,
            "span1_text": "The plate",
            "span2_text": "it",
            "idx": 7,
            "label": 1,
        },
        Example(
            "train:0",
            (
                (
                    "wsc.fixed text: ",
                    "The jug fell on *the plate*, but #it# did not break.",
                ),
            ),
            1,
        ),
    ),
    "record": (
        {
            "passage": "The @ship left Oslo.\n@highlight\nBergen is next\n@highlight\nSome stay",
            "query": "Then it goes to @placeholder.",
            "entities": ["Oslo", "Bergen"],
            "entity_spans": {"text": ["Oslo", "Bergen"], "start": [15, 32], "end": [19, 38]},
            "answers": ["Bergen"],
            "idx": {"passage": 1, "query": 2},
        },
        Example(
            "train:0",
            (
                ("record query: ", "Then it goes to @placeholder."),
                (" entities: ", "Oslo, Bergen"),
                (" passage: ", "The @ship left Oslo. Bergen is next. Some stay"),
            ),
            ("Bergen",),
        ),
    ),
    "squad": (
        {
            **{"id": "a1", "title": "Tea", "context": "Tea grows in Assam.", "question": "Where?"},
            "answers": {"text": ["Assam", "in Assam", "Assam"], "answer_start": [13, 10, 13]},
        },
        Example(
            "train:0",
            (("squad question: ", "Where?"), (" context: ", "Tea grows in Assam.")),
            ("Assam", "in Assam"),
        ),
    ),
    **{
        name: (
            {
                "context": "[PAR] [TLE] Tea [SEP] Tea — 茶 — grows in Assam.",
                "question": "where does it grow",
                "key": "b2",
                "answers": ["Assam ", "", "Assam", "茶"],
                "labels": [{"start": [41], "end": [45]}],
            },
            Example(
                "train:0",
                (
                    (f"{name} question: ", "where does it grow"),
                    (" context: ", "[PAR] [TLE] Tea [SEP] Tea — 茶 — grows in Assam."),
                ),
                ("Assam", "茶"),
            ),
        )
        for name in ("nq", "hotpotqa", "searchqa", "newsqa")
    },
    "scitail": (
        {"premise": "Ice melts.", "hypothesis": "Ice is a solid.", "label": "neutral"},
        Example(
            "train:0",
            (("scitail premise: ", "Ice melts."), (" hypothesis: ", "Ice is a solid.")),
            1,
        ),
    ),
    "quickstart": (
        {"text": "The kettle works.", "label": "positive"},
        Example("train:0", (("quickstart text: ", "The kettle works."),), 1),
    ),
}
