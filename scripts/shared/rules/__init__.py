"""The rules, as pure functions over values: no clock, no network, no database; time is an argument.

`retry` decides what follows from a look at a campaign's folder, `cadence` when a task runs next, `alerts`
which failures are worth an e-mail, `names` what a file is called in Box, `rate` how many calls may go out
now.
"""
