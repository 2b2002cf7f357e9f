"""The command line of gradcurate: one file per verb, each a thin skin over the Python API."""
