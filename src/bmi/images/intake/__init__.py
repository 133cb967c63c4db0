"""Files from outside become disk contents, and the other way round. Needs no database, no store and no service.

What comes in is hostile. Its headers are read here, strictly and within bounds, and everything that would make a
program open another file is refused; only then QEMU's tools read it, in a sandbox (`bmi.sandbox`), and are told its
format: nothing is ever guessed by them.
"""
