"""What every wing stands on: values, errors and exit codes, the log, the files and the shell around us.

For all: `errors`, `values`, `logs`, `redaction`, `commands`, `clocks`, `file_rights`. For scripts and their
command lines: `prerequisites` (imported first), `script`. Imports nothing of ours from outside.
"""
