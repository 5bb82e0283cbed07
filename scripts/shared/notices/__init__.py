"""Notices on their way: the outbox, the e-mails' wording, and the mail server.

For others: `outbox.Outbox` queues a notice and keeps account of its deliveries (its SQL), `delivery` sends
what is due, `mailer.Mailer` hands it to the mail server (`smtp`, `message`), `wording` makes text from
outside safe and renders `templates/`. `digest` makes one notice of many.
"""
