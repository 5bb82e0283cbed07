"""The rules, as pure functions of values: no clock, no network, no database; time is an argument.

`retry` decides what follows a look at a campaign's folder, `cadence` when a task runs next, `alerts` which
failures need an e-mail, `names` the names of files in Box, `rate` how many calls we may make now, `users`
which user of Box makes them.
"""
