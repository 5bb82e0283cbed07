"""Box, and nothing else.

For others: `client.BoxClient`, `client.Part`, `client.UploadSession`, and of `session` the `NameTakenError`
and the `Gate` that a caller supplies.
"""
