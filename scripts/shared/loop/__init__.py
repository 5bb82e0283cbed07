"""The orchestrator: starts each task when it is due, and waits in between.

For the script: `command_line.main`. For other scripts: `memory.Memory`, what the loop remembers in PostgreSQL
(its SQL). Within: `orchestrator` is the loop, `task_process` one run of a task, `journal` and `state_file`
its memory without the database, `messenger` what it tells beside the loop (`heartbeat`), `wall_clock`
how it waits, `service_manager` systemd, `online_check` the look at every system.
"""
