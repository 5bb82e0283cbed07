"""A run of the uploader: what becomes of each campaign, and the bytes' way into Box.

For the script: `uploader.Pass`, `progress.Progress`, `run_report.Report`; `receipt.compare` for `--verify`.
Begin with `road.travel`: what happens to one campaign, from top to bottom.
Within: `transfer` is one campaign's plan, `courier` moves single files, `workers` are the threads, `limiter`
the gate before Box, `receipt` what lies beside the files. The SQL: `ledger` (what is in Box), `standing`
(where campaigns stand), `lasting_errors`, `buckets` (calls to Box).

Modules are loaded when there is work: an idle run needs few of them.
"""
