"""A run of the uploader: what becomes of each campaign, and the bytes' way into Box.

For the scripts: `uploader.Uploader`, `progress.Progress`, `run_report.Report`. Within: `transfer` is one
campaign's plan, `courier` moves single files, `workers` are the threads, `limiter` the gate before Box,
`receipt` what lies beside the files. Modules are loaded when there is work: an idle run needs few of them.
"""
