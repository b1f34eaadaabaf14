"""`llm`: the command line of Simon Willison's `llm`, in the environment of the workers."""

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def llm(arguments: tuple[str, ...]) -> None:
    """Run a command of `llm`, with the workers' plugins, keys and models.

    `vector-index llm models` lists chat models, `embed-models` embedding models, `keys set openai` stores a key,
    `--help` after a command explains it. In containers: docker compose run --rm embed llm models
    """
    from llm.cli import cli as program  # takes half a second, so `--help` does not import it

    program.main(list(arguments or ["--help"]), prog_name="vector-index llm", standalone_mode=False)
