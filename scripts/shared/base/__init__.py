"""What every wing uses: values, errors and exit codes, the log, files, and shell commands.

For all: `errors`, `values`, `logs`, `redaction`, `text`, `commands`, `clocks`, `file_rights`. For scripts and
their command lines: `prerequisites` (imported first), `script`. It imports no other wing.
"""
