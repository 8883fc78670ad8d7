"""The `xmae` command: one file a sub-command, all sharing the recipes that the jobs use."""
