"""Mutated packets: on the codec, on connection cores, on a gateway's port.

mutation        a corpus of packets, and what is done to them
test_fuzz       a short form in every run; the long one is one command (see there)
with_atheris    the same under coverage guidance, where atheris is installed
"""
