"""`python -m llmrun` is the same command as `llmrun`."""

from llmrun.cli.app import main

if __name__ == "__main__":
    main()
