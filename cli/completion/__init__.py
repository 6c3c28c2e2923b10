"""Completion in shells: the script that a shell reads once, and the answers to what it asks at each Tab.

The shell runs `llmrun` again with a variable set (`_LLMRUN_COMPLETE`), as Typer's own scripts do. What can complete a
value is attached to the commands only then, so that it costs nothing when a command is carried out.
"""
