"""python launchers/single_gpu.py RECIPE [a.b=c ...] [--resume]"""

from accept_llm.cli.train import launch

if __name__ == "__main__":
    launch("single")()
