"""The outbox and the way out of it.

`outbox.Outbox` queues a notice and keeps account of its deliveries (its SQL); `delivery` sends what is due;
`templates/` holds the texts.
"""
