"""The parts of `shared.database.Database`; nothing else imports them.

`connection` is one connection, with a limit for every wait. `refusals` explains PostgreSQL's refusals; a run
without any does not import it.
"""
