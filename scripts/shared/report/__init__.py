"""The daily report: `figures` asks the database (its SQL), `day` holds what it tells, as values, `wording`
puts it into words for the templates.

An idle run of the uploader loads none of this.
"""
