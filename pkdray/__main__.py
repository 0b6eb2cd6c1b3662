"""The command line's entry: errors that a user can mend end with their text and exit code 2."""

from __future__ import annotations

import os
import sys

from pkdray.errors import INTERRUPTED, InterruptedWorkError, PkdrayError


def main() -> None:
    """Run the command line; ``--debug`` anywhere in it shows tracebacks."""
    from pkdray.console import print_error

    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    from pkdray.cli import app
    from pkdray.interrupts import heed
    from pkdray.secrets import guard

    heed()
    try:
        guard(os.environ)
        app(arguments)
    except PkdrayError as error:
        if debug:
            raise
        print_error(error, as_json="--json" in arguments)
        sys.exit(INTERRUPTED if isinstance(error, InterruptedWorkError) else 2)


if __name__ == "__main__":
    main()
