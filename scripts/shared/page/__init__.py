"""The operator's page in a browser: which campaigns are stuck and why, and what people can do about them.

`app` builds the application, `access` finds out who asks and what they may do, `views` and `campaign_views`
answer each path, `drawing`, `shown` and `pictures` make the HTML, `acts` changes campaigns and notices and
can undo that; `campaigns`, `overview`, `records` and `audit` ask the database (their SQL). Only report/ and
rules/ decide what a state means. Flask is imported here and nowhere else.
"""
