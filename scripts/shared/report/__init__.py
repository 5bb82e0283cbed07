"""Reports: the daily report, the weekly digest, the explanation of one campaign, and the metrics.

For the daily report, `day` decides which time it covers, `figures` reads the database (its SQL), and
`wording` prepares the values for the templates. A new column needs a change in `figures` and in a template.
`week` reads the database for the weekly digest.

To explain one campaign, `facts` reads the database, `explain` says why and what happens next by the rules of
the runs, and `explain_text` shows it.

`metrics` makes the metrics for Prometheus: in METRICS_FILE at the end of a run, and on the page.

An idle run of the uploader imports none of this, unless METRICS_FILE is set.
"""
