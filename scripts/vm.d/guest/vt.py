"""A virtual terminal that nobody sits at: vt.py NUMBER screen | type TEXT. Root only."""

import fcntl
import sys
import termios


def main() -> None:
    number, what = sys.argv[1:3]
    if what == "screen":
        with open(f"/dev/vcs{number}", "rb") as screen:
            print(screen.read().decode(errors="replace"))
        return
    with open(f"/dev/tty{number}", "rb+", buffering=0) as terminal:
        for character in sys.argv[3] + "\n":
            fcntl.ioctl(terminal, termios.TIOCSTI, character.encode())


main()
