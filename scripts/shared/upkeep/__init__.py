"""What keeps the tables in order, given a `Database`.

For scripts: `migrator.Migrator` applies migrations, `retention.prune` removes rows that are past their stated
life. `statements` cuts a migration into steps that block nobody.
"""
