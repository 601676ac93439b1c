"""Placeholder of the layout of DCASE 2016 task 2."""
