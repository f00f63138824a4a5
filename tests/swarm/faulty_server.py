"""A Petals server whose forward answers are wrong: `faulty_server.py nan|shape|slow MODEL ...`"""

import asyncio
import sys
from typing import Any

import torch
import typer

from accept_llm.cli.swarm import serve
from accept_llm.swarm.bridge import import_petals

SLOW = 0.5  # s more for each request

if __name__ == "__main__":
    fault = sys.argv.pop(1)
    import_petals()
    from petals.server import handler

    true_forward = handler.run_rpc_forward

    async def wrong_forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        states = await true_forward(*args, **kwargs)
        if fault == "nan":
            return states * float("nan")
        if fault == "shape":
            return states[:, :-1]
        await asyncio.sleep(SLOW)
        return states

    handler.run_rpc_forward = wrong_forward
    typer.run(serve)
