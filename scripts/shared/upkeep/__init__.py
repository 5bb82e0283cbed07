"""What keeps the tables in order, given a `Database`: `retention` removes rows past their stated life."""
