"""A run of the uploader: what becomes of each campaign, and the bytes' way into Box.

For the script: `uploader.Pass`, `progress.Progress`, `run_report.Report`; `receipt.compare` for `--verify`.
Begin with `road.travel`: what happens to one campaign, from top to bottom.
Within: `transfer` is one campaign's plan, `folders` its folders in Box, `copier` moves single files,
`download` reads them, `workers` are the threads, `limiter` keeps Box's limits, `receipt` lies beside the
files, `failures` knows which failures make a notice. The SQL: `ledger` (what is in Box), `standing`
(where campaigns stand), `lasting_errors`, `buckets` (calls to Box).

Modules are loaded when there is work: an idle run needs few of them.
"""
