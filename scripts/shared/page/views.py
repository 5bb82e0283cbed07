"""What each path of the page answers."""

from __future__ import annotations

from flask import Blueprint, render_template

blueprint = Blueprint("views", __name__)


@blueprint.get("/")
def start() -> str:
    """The start page."""
    return render_template("start.html.j2")
