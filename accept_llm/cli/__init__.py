"""The command line: main.py lists the commands, each file beside it has some of them."""
