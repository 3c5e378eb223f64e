"""The command line in this process."""

from robopref.cli.main import main


def run(*arguments, expect=0):
    """Run ``robopref`` with these arguments; it has to exit with the expected status."""
    try:
        main([str(a) for a in arguments])
        status = 0
    except SystemExit as exit_:
        status = exit_.code or 0
    assert status == expect, f"robopref {' '.join(map(str, arguments))} exited {status}"
