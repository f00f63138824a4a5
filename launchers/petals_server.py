"""python launchers/petals_server.py MODEL [--blocks 0:15] [--peers ADDRESS] [--weights int8]"""

import typer

from accept_llm.cli.swarm import serve

if __name__ == "__main__":
    typer.run(serve)
