"""The verbs of the `hyle` command, one file a verb."""
