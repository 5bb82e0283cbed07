"""Webhooks: the outbox's second channel, to the team's own systems.

For others: `hooks.Hooks` queues a message in the transaction of what it reports; `delivery` sends the
messages that are due, to each target separately. `outbox` has the SQL, `payloads` writes the messages,
`kinds` calls each kind of target, `sending` makes a call and limits what it can reach and cost.
"""
