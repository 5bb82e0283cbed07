"""Webhooks: the outbox's second channel, to the team's own systems.

For others: `hooks.Hooks` queues what happened, in the transaction of what it reports; `delivery` sends what
is due, each target for itself. `outbox` has the SQL, `payloads` what is said, `kinds` how each kind of target
is called, `sending` the call and its guards.
"""
