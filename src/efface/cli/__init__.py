"""The command line, one file per verb."""


def main() -> None:
    """Run ``efface``."""
    from efface.cli.app import main as run

    run()
