"""The ways in: the ``lab`` command line."""
