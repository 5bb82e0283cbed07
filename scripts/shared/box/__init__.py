"""The client of Box.

For others: `client.BoxClient`, `answers.Part`, `answers.UploadSession`, `refusals.NameTakenError`, and the
`calls.Gate` that a caller supplies. Within: `calls` sends and repeats calls, `login` and `session` keep us
logged in, `answers` and `refusals` read the answers.
"""
