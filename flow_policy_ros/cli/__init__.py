"""The command line, one module per sub-command; ``main`` picks. Nothing imports this package but the entry points."""
