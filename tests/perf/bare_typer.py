"""The least that a Typer application with three commands can be: what start-up times are compared with."""

import typer

app = typer.Typer()


@app.command()
def one(name: str, count: int = 1) -> None:
    """Do one thing."""


@app.command()
def two(count: int = 1) -> None:
    """Do another thing."""


@app.command()
def three(name: str) -> None:
    """Do a third thing."""


app()
