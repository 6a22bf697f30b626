"""`python -m larkline` and the installed command."""

from larkline.cli import app


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
