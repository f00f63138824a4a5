"""`accept-llm swarm`, and the command of launchers/petals_server.py."""

from typing import TYPE_CHECKING, Annotated

import typer

from accept_llm.cli.console import plain_errors, quiet
from accept_llm.errors import RecipeError
from accept_llm.storage import home_path

if TYPE_CHECKING:
    from accept_llm.models.folder import ModelInfo
    from accept_llm.recipe.model import ModelSpec


app = typer.Typer(
    help="Look at a Petals swarm, or record what a model computes.", no_args_is_help=True
)

Model = Annotated[
    str,
    typer.Argument(help="A folder, a .gguf file, a recipe or a Hub id.", show_default=False),
]
Peers = Annotated[
    list[str], typer.Option(help="Address of a server, as it prints it; may be given again.")
]


DTYPES = ("bf16", "fp32")


def model_spec(text: str, dtype: str | None = None, *, default: str = "bf16") -> "ModelSpec":
    """The model that a person names by a folder, a .gguf file, a recipe or a Hub id, in the type
    that was asked for, else in the recipe's, else in the default."""
    from pydantic import TypeAdapter, ValidationError

    from accept_llm.recipe.model import ModelSpec
    from accept_llm.recipe.recipe import load_recipe

    if dtype is not None and dtype not in DTYPES:
        raise RecipeError([f"--dtype: got {dtype!r}; allowed: {', '.join(DTYPES)}"])
    path = home_path(text)
    if path.suffix in (".yaml", ".yml"):
        spec = load_recipe(path)[0].model
        return spec.model_copy(update={"dtype": dtype}) if dtype else spec
    kind = {"kind": "hub", "id": text}
    if path.is_dir():
        kind = {"kind": "folder", "path": str(path)}
    elif path.suffix == ".gguf":
        kind = {"kind": "gguf", "file": str(path)}
    try:
        return TypeAdapter(ModelSpec).validate_python({**kind, "dtype": dtype or default})
    except ValidationError:
        allowed = "a folder, a .gguf file, a recipe (.yaml) or the id of a model of the Hub"
        raise RecipeError([f"MODEL: got {text!r}; allowed: {allowed}"]) from None


def _local(text: str) -> "ModelInfo":
    from accept_llm.models.find import fetch_model

    return fetch_model(model_spec(text))


@app.command()
def serve(
    model: Model,
    blocks: Annotated[
        str | None, typer.Option(help="START:END, such as 0:15; default: all of them.")
    ] = None,
    peers: Annotated[
        list[str] | None,
        typer.Option(help="A server of the swarm to join; default: a new swarm."),
    ] = None,
    weights: Annotated[str, typer.Option(help="bf16, int8 or nf4 (bitsandbytes).")] = "bf16",
    dtype: Annotated[
        str | None, typer.Option(help="bf16 or fp32; default: the recipe's, else bf16.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one, another each time.")] = 0,
    public_name: Annotated[str | None, typer.Option(help="How `swarm status` names it.")] = None,
    prefix: Annotated[
        str | None, typer.Option(help="The model's name in the swarm; default: from its weights.")
    ] = None,
) -> None:
    """Serve blocks of a model to a Petals swarm."""
    with plain_errors():
        from accept_llm.swarm.server import Serve
        from accept_llm.swarm.server import serve as run_server

        wanted = model_spec(model, dtype).dtype
        asked = Serve(
            blocks=blocks,
            peers=tuple(peers or ()),
            weights=weights,
            dtype=wanted,
            host=host,
            port=port,
            public_name=public_name,
            prefix=prefix,
        )
        run_server(_local(model), asked, notify=lambda text: print(text, flush=True))


@app.command()
def status(
    peers: Peers,
    model: Annotated[
        str | None, typer.Option(help="Only this one: a folder, a recipe or a Hub id.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to reach the swarm.")] = 10.0,
) -> None:
    """Say which blocks are served by whom, and whether each model is complete; exit code 1 where
    one is not."""
    with plain_errors():
        from accept_llm.swarm import directory
        from accept_llm.swarm.folder import swarm_name

        wanted = swarm_name(_local(model)) if model else None
        dht = directory.open_directory(peers, timeout=timeout, field="--peers")
        found = directory.models(dht)
        if wanted is not None and wanted not in found:
            names = ", ".join(found) or "none"
            raise RecipeError([f"--model: {wanted} is not served here; served: {names}"])
        complete = bool(found)
        for name, blocks in found.items():
            if wanted in (None, name):
                servers = directory.find_servers(dht, name, blocks=blocks)
                complete &= not directory.find_missing(servers, blocks)
                directory.print_status(name, blocks, servers=servers)
        if not found:
            print("no model is served")
        dht.shutdown()
    if not complete:
        raise typer.Exit(1)


@app.command()
def record(
    model: Model,
    dtype: Annotated[
        str | None, typer.Option(help="bf16 or fp32; default: the recipe's, else fp32.")
    ] = None,
) -> None:
    """Compute a probe text with the whole model here, for swarms of it to be checked by."""
    with plain_errors():
        from accept_llm.models.tokenizer import is_old

        if is_old():
            message = "swarm record: the whole model needs transformers 5"
            raise RecipeError([f"{message}; use accept-llm of the main environment"])
        quiet()
        from accept_llm.api import record_probe

        spec = model_spec(model, dtype, default="fp32")
        spec = spec.model_copy(update={"quantization": None})
        print(record_probe(spec))
