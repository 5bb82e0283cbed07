"""The orchestrator: starts each task when it is due, and waits in between.

The script uses `command_line.main`; other scripts use `memory.Memory`, which keeps the loop's state in
PostgreSQL (its SQL). Inside, `orchestrator` is the loop over the table in `tasks`. `task_runner` runs one
task, in a `task_process`. `teller` sends e-mails and pings, in the `messenger`'s thread and by `heartbeat`.
`journal` and `state_file` keep the state while the database is away. `wall_clock` waits, `signals` and
`service_manager` talk to the operating system, `online_check` logs in to every system. All parts share
`context`.
"""
