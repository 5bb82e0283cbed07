"""Box, and nothing else.

For others: `client.BoxClient`, `answers.Part`, `answers.UploadSession`, `refusals.NameTakenError`, and the
`calls.Gate` that a caller supplies. Within: `calls` sends and tries again, `login` and `session` keep us
logged in, `answers` and `refusals` read what comes back.
"""
