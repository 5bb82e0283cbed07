"""Maintains the tables, given a `Database`.

For scripts: `schema.Schema` says what the database lacks, `migrator.Migrator` applies migrations,
`retention.prune` removes old rows. `statements` splits a migration into statements that block nobody for
long. `totals.Totals` keeps the totals for the metrics.
"""
