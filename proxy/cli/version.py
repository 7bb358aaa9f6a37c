"""``llm-optimizer version``."""

import platform
from importlib import metadata

import click


@click.command("version")
def version() -> None:
    """Print the version of the product, the interpreter and the system."""
    try:
        number = metadata.version("llm-optimizer")
    except metadata.PackageNotFoundError:
        number = "(running from a checkout)"
    click.echo(f"llm-optimizer {number}, Python {platform.python_version()}, {platform.platform()}")
