"""What keeps the tables in order, given a `Database`.

For scripts: `migrator.Migrator` applies migrations, `retention.prune` removes rows that are too old.
`statements` cuts a migration into statements that block nobody for long. `totals.Totals` counts, for the
metrics, what outlives its rows.
"""
