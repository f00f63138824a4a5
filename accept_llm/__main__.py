"""python -m accept_llm: the same as the console script."""

from accept_llm.cli.main import main

if __name__ == "__main__":
    main()
