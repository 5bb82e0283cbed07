"""The orchestrator: starts each task when it is due, and waits in between.

For the script: `command_line.main`. Within: `orchestrator` is the loop, `task_process` one run of a task,
`journal` and `state_file` what it remembers, `messenger` what it tells beside the loop (`heartbeat`),
`wall_clock` its waiting, `service_manager` systemd, `online_check` the look at every system.
"""
