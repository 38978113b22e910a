"""The `privatenet` command: finds the subcommand, each of which reads its own arguments."""

import importlib
import sys

COMMANDS = {
    "shards": (
        "privatenet.launch.commands.shards",
        "build, verify and show the tar shards of a labelled face data set",
    ),
    "train": ("privatenet.launch.train", "train one stage: target, adversary or private"),
    "run": ("privatenet.launch.commands.run", "train all stages in order on one or more ranks, and print what leaks"),
    "audit": ("privatenet.launch.commands.audit", "attack any network, or features, and report what they tell of whom"),
    "certify": ("privatenet.launch.commands.certify", "bound what any adversary reads of what a network sends"),
    "predict": (
        "privatenet.launch.commands.predict",
        "say what a trained network sees on faces in pictures and videos",
    ),
    "export": (
        "privatenet.launch.commands.export",
        "write a trained network as files for other runtimes, whole or cut",
    ),
    "budget": ("privatenet.launch.commands.budget", "set beside each other how much is trusted and what is still read"),
    "reproduce": (
        "privatenet.launch.commands.reproduce",
        "train and measure all that the paper reports, beside its figures",
    ),
    "sweep": ("privatenet.launch.commands.sweep", "search the settings that give most utility for least leakage"),
    "compare": ("privatenet.launch.commands.compare", "set networks of many runs beside each other, and register one"),
    "send": ("privatenet.launch.commands.send", "tell MLflow what it was not told while its server was away"),
    "bench": ("privatenet.launch.commands.bench", "measure how close this machine comes to what it can do"),
    "doctor": ("privatenet.launch.commands.doctor", "tell what this machine offers, what is missing and what to type"),
}


def main(argv: list[str] | None = None) -> int:
    """Run `privatenet ARGV`; returns the exit code: 0, or 2 for bad input."""
    arguments = sys.argv[1:] if argv is None else argv
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(f"privatenet {version('privatenet')}")
        return 0
    if name not in COMMANDS:
        print(f"privatenet: error: there is no command {name!r}: accepted are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    from privatenet.launch.exits import guarded

    return guarded(lambda: _run(COMMANDS[name][0], arguments[1:]))


def _run(module: str, arguments: list[str]) -> int:
    try:
        command = importlib.import_module(module)
    except KeyboardInterrupt:  # it takes seconds
        raise KeyboardInterrupt("nothing was begun") from None
    return int(command.main(arguments))


def usage() -> str:
    lines = "\n".join(f"  {name:9s} {summary}" for name, (_, summary) in COMMANDS.items())
    return (
        "usage: privatenet COMMAND ...\n\n"
        "Train image classifiers that recognise one thing about a face and keep the others to themselves.\n\n"
        f"{lines}\n\n"
        "`privatenet COMMAND --help` says more about each.\n\n"
        "A first run, with rendered faces:\n"
        "  privatenet shards build synthetic --out shards/demo\n"
        "  privatenet run --config demo.yaml"
    )


if __name__ == "__main__":
    sys.exit(main())
