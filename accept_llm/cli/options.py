"""The arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from accept_llm.engines.facts import RANKED

RecipePath = Annotated[Path, typer.Argument(help="A recipe (YAML).", show_default=False)]
RunPath = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes, such as train.steps=100.", show_default=False)
]
Peers = Annotated[
    list[str] | None, typer.Option(help="By the swarm of this server, which has its blocks.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Try, even where the plan says that memory is too small.")
]
# The `deepspeed` launcher says it here as well as in LOCAL_RANK, which is what counts.
LocalRank = Annotated[int | None, typer.Option("--local_rank", hidden=True)]
NProc = Annotated[
    int | None, typer.Option("--nproc", min=1, help="Ranks to start on this machine.")
]
EngineKind = Annotated[
    str | None,
    typer.Option("--engine", help=f"With --nproc: {', '.join(RANKED)} (the first by default)."),
]
ChangedData = Annotated[
    bool,
    typer.Option("--changed-data", help="As --resume, also where the rows have changed."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]
