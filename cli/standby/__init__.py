"""A process that has everything imported already, and carries out commands for which a model is kept loaded.

To run a Python program takes a fifth of a second before its own first step, which is longer than a loaded model needs
for the first word of an answer. So a command with `--keep-alive` leaves, beside the worker, a process of this package:
it waits for the next command, forks, and the copy carries the command out on the files, in the folder and with the
environment of the command that came. That one only passes signals on and ends with the same exit code.

    asking        the command that was typed hands itself over, if somebody waits and the circumstances are the same
    circumstances what must be equal for two processes to behave alike
    serving       the process that waits
    message       what they say to each other

Whatever is not as expected (nobody there, another version, other limits, another container) leaves the command to be
carried out the ordinary way: nothing depends on this package but time.
"""
