"""Runs a command in a terminal of its own and types answers to its questions, as a person would.

terminal.py OUTPUT [REGEX ANSWER]... -- CMD...

What the command writes goes to OUTPUT; its exit code is ours. Questions come in their order; 97 if one never came. With
`hold` in place of a command the terminal's name is written to OUTPUT.tty, and whoever opens it is answered.
"""

import os
import pty
import re
import select
import signal
import sys
import termios
import time

LIFE = 240
# How long a terminal has to lose its echo after a question for a secret.
SILENCE = 20


def main() -> int:
    split = sys.argv.index("--")
    output, *words = sys.argv[1:split]
    questions = list(zip(words[::2], words[1::2]))
    command = sys.argv[split + 1:]
    if command == ["hold"]:
        master, slave = pty.openpty()
        os.chmod(os.ttyname(slave), 0o600)
        with open(output + ".tty", "w") as name:
            name.write(os.ttyname(slave))
        child = None
    else:
        child, master = pty.fork()
        if child == 0:
            os.execvp(command[0], command)
    try:
        return converse(master, child, questions, output)
    finally:
        if child is not None:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass


def converse(master: int, child: int | None, questions: list[tuple[str, str]], output: str) -> int:
    heard, end = "", time.monotonic() + LIFE
    with open(output, "a", buffering=1) as log:
        while time.monotonic() < end:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    piece = os.read(master, 4096).decode(errors="replace")
                except OSError:
                    piece = ""
                if piece == "" and child is not None:
                    break
                log.write(piece)
                heard += piece
            if questions and (found := re.search(questions[0][0], heard)):
                heard = heard[found.end():]
                lose_echo(master)
                os.write(master, questions.pop(0)[1].encode() + b"\r")
                if not questions and child is None:
                    return 0
    if child is None:
        return 97
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return 97 if questions and code == 0 else abs(code)


def lose_echo(master: int) -> None:
    """Waits until nothing that is typed is shown: every question here is one for a secret."""
    end = time.monotonic() + SILENCE
    while termios.tcgetattr(master)[3] & termios.ECHO and time.monotonic() < end:
        time.sleep(0.05)


sys.exit(main())
