"""The outbox and the way out of it.

`delivery` sends what is due; `templates/` holds the texts.
"""
