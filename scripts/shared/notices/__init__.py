"""Notices on their way: the outbox, the e-mails' wording, and the mail server.

For others: `outbox.Outbox` queues a notice and keeps account of its deliveries (its SQL), `delivery` sends
what is due, `mailer.Mailer` hands over to the mail server, `wording` makes text from outside safe and renders `templates/`.
`digest` makes one e-mail of many notices.
"""
