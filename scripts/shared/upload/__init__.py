"""A run of the uploader: decides about each campaign, and copies its files to Box.

For the script: `uploader.Pass`, `progress.Progress`, `run_report.Report`; `receipt.compare` for `--verify`.
Begin with `road.travel`: what happens to one campaign, from top to bottom. Within: `transfer` is one
campaign's plan, `folders` its folders in Box, `copier` copies single files, `download` reads them, `workers`
are the threads, `limiter` keeps Box's limits, `box_users` opens Box, `receipt` writes the list next to the
files, `failures` decides which failures make a notice. The SQL: `ledger` (what is in Box), `standing` (the
status of campaigns), `lasting_errors`, `buckets` (calls to Box).

Modules are imported when there is work: an idle run needs few of them.
"""
