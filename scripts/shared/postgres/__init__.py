"""What `shared.database.Database` is made of; nobody else imports it.

`connection` is one connection, with an end to every wait. `refusals` tells PostgreSQL's refusals apart; a run
without any does not load it.
"""
