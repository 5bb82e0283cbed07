"""The daily report: `day` says which time it covers, `figures` asks the database (its SQL) and holds what it
tells, `wording` shows it to the templates. A new column is a matter of `figures` and a template. `week` is to
the weekly digest what `figures` is to the report.

And one campaign explained: `facts` asks the database, `explain` says why and what is next by the rules of the
runs, `explain_text` shows it.

`metrics` is what Prometheus is told: by METRICS_FILE at the end of a run, and by the page.

An idle run of the uploader loads none of this, unless METRICS_FILE is set.
"""
