"""Stores, words and sends notices: the outbox, the e-mails' wording, and the mail server.

For others: `outbox.Outbox` queues a notice and records its deliveries (its SQL), `delivery` sends due notices
by `mailer.Mailer` (`smtp`, `message`), `wording` makes text from outside safe and renders `templates/`.
`digest` combines many notices into one.
"""
