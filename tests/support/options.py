"""Options of commands, as the command line has them."""

from flows.commands.parser import make_app


def options_of(name: str) -> set[str]:
    """The names of a command's options, as a person types them."""
    app = make_app()
    for word in name.split():
        app = app[word]
    arguments = app.assemble_argument_collection()
    return {each for argument in arguments for each in argument.names if each.startswith("--")}
