"""python launchers/petals_client.py RECIPE engine.peers=ADDRESS [a.b=c ...] [--resume]"""

from accept_llm.cli.train import launch

if __name__ == "__main__":
    launch("petals")()
