"""``llm-optimizer completion``: the script that teaches a shell to complete the command."""

import click
from click.shell_completion import get_completion_class

_PROGRAM = "llm-optimizer"
_VARIABLE = "_LLM_OPTIMIZER_COMPLETE"
"""What click looks for when the command of that name is started."""


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print a script that completes commands, options, routes and ids of optimizations in SHELL.

    \b
    Examples:
      eval "$(llm-optimizer completion bash)"                   in ~/.bashrc
      eval "$(llm-optimizer completion zsh)"                    in ~/.zshrc, after compinit
      llm-optimizer completion fish > ~/.config/fish/completions/llm-optimizer.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    # ``source_vars`` and the template, not ``source``: that one starts a shell only to look at its version.
    script = kind(root, {}, _PROGRAM, _VARIABLE)
    click.echo(script.source_template % script.source_vars())
