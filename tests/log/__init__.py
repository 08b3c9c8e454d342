"""Tests of the log, each file named for the module it tests."""
