"""The orchestrator: starts each task when it is due, and waits in between.

For the script: `command_line.main`. For other scripts: `memory.Memory`, what the loop remembers in PostgreSQL
(its SQL). Within: `orchestrator` is the loop over the table in `tasks`. `task_runner` runs one task, in a
`task_process`. `teller` tells people, by the `messenger`'s thread and the `heartbeat`. `journal` and
`state_file` are the memory while the database is away. `wall_clock` waits, `signals` and `service_manager`
speak with the system, `online_check` looks at every system. `context` is what they share.
"""
